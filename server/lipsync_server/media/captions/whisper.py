"""Recognise the words of a recording with Whisper, and time each word. The library is faster-whisper, on the CPU.

Whisper gives the words, and a time for each from its own attention. Where espeak-ng speaks the language, align.py then
times the same words by the sound, which is more exact (docs/captions.md has both errors). Runs in a decoder process.
"""

import os
from pathlib import Path
from typing import Any, Final

from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.align import align
from lipsync_server.media.captions.script import Word
from lipsync_server.media.espeak import can_speak
from lipsync_server.media.info import HeardScript, HeardWord
from lipsync_server.media_types import Speech

_MAX_THREADS: Final = 4
# Whisper's codes for languages that have another code elsewhere in the server.
_OWN_CODES: Final = {"cmn": "zh", "yue": "zh", "nb": "no", "he": "he", "fil": "tl"}


def recognise(speech: Speech, language: str | None, home: Path) -> HeardScript:
    """The words of `speech` (float32 mono, 16 kHz) with their times; without words for a recording without speech.

    language: None to let Whisper detect it. home: the folder of the model's files. Raises InvalidInput for a
    language that the model does not know.
    """
    from faster_whisper import WhisperModel

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    model = WhisperModel(str(home), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)
    code = _code_for(model, language)
    segments, found = model.transcribe(
        speech, language=code, word_timestamps=True, vad_filter=True, condition_on_previous_text=False
    )
    heard = _in_order([word for segment in segments for word in segment.words or ()], len(speech) / 16_000)
    spoken = language or str(found.language)
    if not heard or not can_speak(spoken):
        return HeardScript(tuple(heard), spoken, True)
    aligned = align([Word(word.text, word.blank_before) for word in heard], speech, spoken)
    return aligned if aligned.fits and not aligned.guessed else HeardScript(tuple(heard), spoken, True)


def _code_for(model: Any, language: str | None) -> str | None:
    """Whisper's code for `language`. A model of English alone knows nothing else."""
    known = model.supported_languages
    if language is None:
        return None if model.model.is_multilingual else "en"
    code = language.lower().partition("-")[0]
    code = _OWN_CODES.get(code, code)
    if code not in known:
        raise InvalidInput(
            f"Speech in the language {language} cannot be recognised here. Send the spoken words as script.",
            field="language",
        )
    return code


def _in_order(words: list[Any], duration_s: float) -> list[HeardWord]:
    """Whisper's words with times that never go back and lie within the recording."""
    ordered: list[HeardWord] = []
    last_s = 0.0
    for word in words:
        text = str(word.word)
        start_s = min(max(float(word.start), last_s), duration_s)
        end_s = min(max(float(word.end), start_s), duration_s)
        if any(c.isalnum() for c in text):
            ordered.append(HeardWord(text.strip(), text[:1].isspace() or not ordered, start_s, end_s))
            last_s = end_s
        elif ordered and text.strip():
            # A mark alone belongs to the word before.
            before = ordered[-1]
            ordered[-1] = HeardWord(before.text + text.strip(), before.blank_before, before.start_s, before.end_s)
    return ordered

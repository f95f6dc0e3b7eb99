"""Speak one piece of a text: append its samples to a file. The work of a decoder process (media/sandbox/child.py)."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lipsync_server.errors import InvalidInput
from lipsync_server.extras import way_to_install
from lipsync_server.media.captions.japanese import can_read_kanji, has_kanji, in_kana, is_japanese
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.captions.text_language import language_of
from lipsync_server.media.espeak import clauses_of, library, samples_of
from lipsync_server.media.info import SpokenPiece, TextInfo
from lipsync_server.media.voice.pieces import pieces_of
from lipsync_server.media_types import Speech

_PROBED_CHARACTERS: Final = 1500
_LARGEST: Final = 32767
_QUIET: Final = 1e-3
_EDGE_S: Final = 0.15
"""Silence that remains before and after a sentence."""


def probe_text(text: str, language: str | None) -> TextInfo:
    """The language and the approximate length of `text`. Raises InvalidInput for text that cannot be spoken."""
    words = words_of(text)
    if not words:
        raise InvalidInput("The text has no words to speak.", field="text")
    language = language or language_of(text, words)
    if language is None:
        raise InvalidInput("The text is in a writing system without a known voice: give its language.", field="text")
    if is_japanese(language) and has_kanji(text) and not can_read_kanji():
        raise InvalidInput(
            f"The voice reads kana and no kanji. For kanji install a dictionary. {way_to_install('japanese')}. "
            "Or send the text in kana.",
            field="text",
        )
    pieces = pieces_of(text)
    _, rate_hz = library()
    beginning = " ".join(pieces)[:_PROBED_CHARACTERS]
    n_characters = sum(len(piece) for piece in pieces)
    spoken_s = len(samples_of(_readable(beginning, language), language)) / rate_hz
    return TextInfo(language, spoken_s * max(1.0, n_characters / len(beginning)))


def speak_piece(piece: str, language: str, voice: str, home: Path | None, target: Path) -> SpokenPiece:
    """Append `piece` as 16-bit mono samples without a header to the file `target`.

    language: as espeak-ng names it. voice: of Kokoro, whose files are in `home`; None for espeak-ng's own voice.
    """
    if home is None:
        samples, rate_hz = samples_of(_readable(piece, language), language), library()[1]
    else:
        samples, rate_hz = _by_kokoro(piece, language, voice, home)
    with target.open("ab") as file:
        file.write(samples.astype("<i2").tobytes())
    return SpokenPiece(rate_hz, len(samples))


def _readable(text: str, language: str) -> str:
    """`text` in letters that espeak-ng reads: Japanese in kana, where the dictionary is installed."""
    return in_kana(text) if is_japanese(language) and can_read_kanji() else text


def _by_kokoro(piece: str, language: str, voice: str, home: Path) -> tuple[NDArray[np.int16], int]:
    from lipsync_server.media.voice import kokoro  # loads a library of 50 MB, for this voice alone

    model = kokoro.kokoro(home)
    spoken = [
        _without_long_edges(model.say(chunk, voice), kokoro.RATE_HZ)
        for chunk in kokoro.chunks_of(clauses_of(piece, language), language)
    ]
    joined = np.concatenate([*spoken, np.zeros(0, np.float32)])
    return (np.clip(joined, -1, 1) * _LARGEST).astype(np.int16), kokoro.RATE_HZ


def _without_long_edges(speech: Speech, rate_hz: int) -> Speech:
    """`speech` with at most _EDGE_S of silence at each end."""
    loud = np.flatnonzero(np.abs(speech) > _QUIET)
    if not len(loud):
        return speech
    edge = round(_EDGE_S * rate_hz)
    return speech[max(0, int(loud[0]) - edge) : int(loud[-1]) + edge]

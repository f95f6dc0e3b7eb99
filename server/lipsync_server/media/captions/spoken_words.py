"""Words as synthetic speech, with the moment at which each word begins. The voice is espeak-ng's, in 100 languages.

A word in another writing system than the language's own is read by a voice of that system (writing_systems.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

import numpy as np
import soxr
from numpy.typing import NDArray

from lipsync_server.media.captions.writing_systems import runs_by_voice, systems_read_in
from lipsync_server.media.espeak import TEXT_IS_SSML, TEXT_UTF8, choose_language, library, synthesise
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

# Number of words in one call. The library keeps its input in memory, so a long script is sent in pieces.
_WORDS_AT_ONCE: Final = 400


@dataclass(frozen=True)
class Spoken:
    """Synthetic speech. samples: float32 mono at 16 kHz. starts_s: float64 (n_words + 1,), the start of each word and
    the end of the last; it never falls."""

    samples: Speech
    starts_s: NDArray[np.float64]


def speak(words: Sequence[str], language: str) -> Spoken:
    """Read `words` aloud. Raises InvalidInput for a language without a voice."""
    choose_language(language)
    _, rate_hz = library()
    read = systems_read_in(language, "".join(words))
    pieces: list[Speech] = []
    starts = np.full(len(words) + 1, np.nan)
    n_samples = 0
    for first in range(0, len(words), _WORDS_AT_ONCE):
        part = words[first : first + _WORDS_AT_ONCE]
        heard, marks = _synthesise([_with_voices(word, language, read) for word in part], first)
        for number, sample in marks.items():
            starts[number] = (n_samples + sample) / rate_hz
        pieces.append(heard)
        n_samples += len(heard)
    starts[-1] = n_samples / rate_hz
    samples = np.concatenate([*pieces, np.zeros(1, np.float32)])
    return Spoken(soxr.resample(samples, rate_hz, SPEECH_RATE_HZ), _share_out(starts, words))


def _with_voices(word: str, language: str, read: frozenset[str]) -> str:
    """A word as SSML: its letters of other writing systems are marked with the language of their voice."""
    return "".join(
        f'<voice xml:lang="{voice}">{escape(part)}</voice>' if voice else escape(part)
        for voice, part in runs_by_voice(word, language, read)
    )


def _synthesise(words: Sequence[str], first: int) -> tuple[Speech, dict[int, int]]:
    """The samples of `words` (SSML), and the sample at which the word of each number begins: a mark stands before
    each."""
    marked = " ".join(f'<mark name="{first + i}"/>{word}' for i, word in enumerate(words))
    samples, marks = synthesise(f"<speak>{marked}</speak>", TEXT_UTF8 | TEXT_IS_SSML)
    # The samples of marks count through the whole text, which is this piece alone.
    return (samples / 32768).astype(np.float32), {int(name): sample for name, sample in marks.items()}


def _share_out(starts: NDArray[np.float64], words: Sequence[str]) -> NDArray[np.float64]:
    """Starts without gaps or ties. espeak-ng reads some words as one and then gives both the same moment or none; such
    words share their time by their letters."""
    starts = starts.copy()
    starts[0] = 0.0 if np.isnan(starts[0]) else starts[0]
    known = [0]
    for i in range(1, len(starts)):
        is_new = not np.isnan(starts[i]) and starts[i] - starts[known[-1]] > 0.02
        if is_new or i == len(starts) - 1:
            known.append(i)
    for left, right in pairwise(known):
        letters = np.cumsum([0.0] + [max(1, len(words[i])) for i in range(left, right)])
        starts[left:right] = starts[left] + (starts[right] - starts[left]) * (letters / letters[-1])[:-1]
    return np.maximum.accumulate(starts)

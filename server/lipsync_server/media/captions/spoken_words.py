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

from lipsync_server.media.captions.writing_systems import NO_VOICE, runs_by_voice, systems_read_in
from lipsync_server.media.espeak import TEXT_IS_SSML, TEXT_UTF8, choose_language, library, synthesise
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

# Number of words in one call. The library keeps its input in memory, so a long script is sent in pieces.
_WORDS_AT_ONCE: Final = 400

_SYLLABLE: Final = "na"


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
        heard, places = _synthesise([_with_voices(word, read) for word in part])
        for number, sample in places.items():
            if number < len(part):
                starts[first + number] = (n_samples + sample) / rate_hz
        pieces.append(heard)
        n_samples += len(heard)
    starts[-1] = n_samples / rate_hz
    samples = np.concatenate([*pieces, np.zeros(1, np.float32)])
    return Spoken(soxr.resample(samples, rate_hz, SPEECH_RATE_HZ), _share_out(starts, words))


def _with_voices(word: str, read: frozenset[str]) -> str:
    """A word as SSML: its letters of other writing systems are marked with the language of their voice.

    Letters that no voice reads become a syllable for every two, about as long as they are in speech.
    """
    ssml = ""
    for voice, part in runs_by_voice(word, read):
        if voice == NO_VOICE:
            ssml += _SYLLABLE * -(-sum(c.isalpha() for c in part) // 2)
        else:
            ssml += f'<voice xml:lang="{voice}">{escape(part)}</voice>' if voice else escape(part)
    return ssml


def _synthesise(words: Sequence[str]) -> tuple[Speech, dict[int, int]]:
    """The samples of `words` (SSML), and the first sample of each word by its number, where the library reports it.

    A mark before each word keeps the library from reading short words as one. The place in the text tells which word
    starts. Marks without a place are used too, until one with a place shows that the names are wrong (Korean).
    """
    text, ends = "<speak>", []
    for number, word in enumerate(words):
        text += f'<mark name="{number}"/>{word} '
        ends.append(len(text))
    samples, found = synthesise(f"{text}</speak>", TEXT_UTF8 | TEXT_IS_SSML)
    starts: dict[int, int] = {}
    marks: dict[int, int] = {}
    names_are_right = True
    for start in found:
        number = int(np.searchsorted(ends, start.place, "right"))
        if not start.mark:
            starts.setdefault(number, start.sample)
        elif start.place >= 0:
            names_are_right &= number == int(start.mark)
        elif names_are_right:
            marks[int(start.mark)] = start.sample
    return (samples / 32768).astype(np.float32), marks | starts


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

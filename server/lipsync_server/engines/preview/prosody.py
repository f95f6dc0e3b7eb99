"""The rhythm of the speech: phrases (words between two pauses) and accents (stressed syllables), from its loudness.

People move the head, the brows and the breath with this rhythm. Loudness alone finds it in every language. Pitch, which
also marks stress, is not measured. Knows numpy, no sound and no picture.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

# Somebody speaks above this loudness (0 to 1). Shorter silences are no pauses, and shorter bursts are noises.
_SPEAKING: Final = 0.12
_PAUSE_S: Final = 0.28
_BURST_S: Final = 0.12
# A longer phrase is divided at its quietest moment.
_LONGEST_S: Final = 3.2
# A syllable lasts about _SYLLABLE_S; an accent is a syllable that is louder than the words around it.
_SYLLABLE_S: Final = 0.14
_AROUND_S: Final = 1.5
_BETWEEN_ACCENTS_S: Final = 0.55
_LEAST_ACCENT: Final = 0.1
_FULL_ACCENT: Final = 0.6


@dataclass(frozen=True)
class Phrase:
    """Words between two pauses. opens: whether a pause precedes them (False for the later part of a long phrase)."""

    start_s: float
    end_s: float
    opens: bool = True


@dataclass(frozen=True)
class Accent:
    """A stressed syllable. strength: 0 to 1."""

    at_s: float
    strength: float


@dataclass(frozen=True)
class Prosody:
    """The phrases and accents of a recording, in order of time."""

    phrases: tuple[Phrase, ...]
    accents: tuple[Accent, ...]


def prosody_of(loudness: NDArray[np.float32], fps: int) -> Prosody:
    """The phrases and accents of a recording. loudness: float32 (n_frames,), 0 (no speech) to 1 (loud speech)."""
    curve = loudness.astype(np.float64)
    phrases = tuple(part for phrase in _phrases(curve, fps) for part in _divided(phrase, curve, fps))
    return Prosody(phrases, tuple(_accents(curve, phrases, fps)))


def smooth(values: Curve, fps: int, span_s: float) -> Curve:
    """A running mean over `span_s` seconds, weighted by a Hann window. The result has the length of `values`."""
    kernel = np.hanning(max(3, int(span_s * fps) | 1) + 2)[1:-1]
    half = len(kernel) // 2
    return np.convolve(np.pad(values, half, mode="edge"), kernel / kernel.sum(), mode="valid")


def _phrases(curve: Curve, fps: int) -> list[Phrase]:
    """The phrases of any length."""
    if not len(curve):
        return []
    speaking = smooth(curve, fps, _BURST_S) > _SPEAKING
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speaking.astype(np.int8), [0]])))
    phrases: list[Phrase] = []
    for start, end in zip(edges[::2] / fps, edges[1::2] / fps, strict=True):
        if phrases and start - phrases[-1].end_s < _PAUSE_S:
            phrases[-1] = Phrase(phrases[-1].start_s, float(end))
        else:
            phrases.append(Phrase(float(start), float(end)))
    return [phrase for phrase in phrases if phrase.end_s - phrase.start_s >= _BURST_S]


def _divided(phrase: Phrase, curve: Curve, fps: int) -> list[Phrase]:
    """The phrase in parts of at most _LONGEST_S, divided at its quietest moments."""
    parts = [phrase]
    quiet = smooth(curve, fps, 2 * _SYLLABLE_S)
    while parts[-1].end_s - parts[-1].start_s > _LONGEST_S:
        last = parts.pop()
        low, high = int((last.start_s + 0.4 * _LONGEST_S) * fps), int((last.start_s + _LONGEST_S) * fps)
        cut = (low + int(np.argmin(quiet[low:high]))) / fps
        parts += [Phrase(last.start_s, cut, last.opens), Phrase(cut, last.end_s, opens=False)]
    return parts


def _accents(curve: Curve, phrases: tuple[Phrase, ...], fps: int) -> list[Accent]:
    """The accents in the phrases: peaks of loudness above the loudness of the words around."""
    if not phrases:
        return []
    syllables = smooth(curve, fps, _SYLLABLE_S)
    above = syllables - smooth(syllables, fps, _AROUND_S)
    peaks = np.flatnonzero((above[1:-1] > above[:-2]) & (above[1:-1] >= above[2:]) & (above[1:-1] > _LEAST_ACCENT)) + 1
    accents: list[Accent] = []
    for phrase in phrases:
        first, last = np.searchsorted(peaks, [phrase.start_s * fps, phrase.end_s * fps])
        found = accents[-1:]
        # The strongest peaks come first. A weaker peak close to a stronger one belongs to the same movement.
        for frame in sorted(peaks[first:last], key=lambda frame: -above[frame]):
            if all(abs(frame / fps - other.at_s) >= _BETWEEN_ACCENTS_S for other in found):
                found.append(Accent(float(frame / fps), float(np.clip(above[frame] / _FULL_ACCENT, 0, 1))))
        accents[-1:] = sorted(found, key=lambda accent: accent.at_s)
    return accents

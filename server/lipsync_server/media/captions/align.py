"""Find the time of each word of a script in a recording: espeak-ng speaks the script, and the two sounds are compared.

Both sounds become log mel spectra at 100 frames a second, without their pauses. Dynamic time warping (Sakoe and Chiba,
1978) finds the path through all pairs of frames (i, j) with the least total difference d:

    cost(i, j) = d(i, j) + min(cost(i-1, j-1), cost(i-1, j), cost(i, j-1))

The path maps each time of the synthetic speech, and so each word, to a time of the recording. No model is needed, and
every language of espeak-ng works. The language with the least difference is the language of the recording.

Long recordings: one coarse path over all of them, then fine paths over pieces, so memory stays bounded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.japanese import can_read_kanji, is_japanese, with_readings
from lipsync_server.media.captions.numbers_aloud import said
from lipsync_server.media.captions.script import Word, candidate_languages
from lipsync_server.media.captions.spoken_words import Spoken, speak
from lipsync_server.media.captions.text_language import signs_of
from lipsync_server.media.captions.writing_systems import hides_vowels, is_guessed, systems_read_in
from lipsync_server.media.info import HeardScript, HeardWord
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

FRAMES_PER_S: Final = 100
_HOP: Final = SPEECH_RATE_HZ // FRAMES_PER_S
_WINDOW: Final = 400
_FFT: Final = 512
_N_MELS: Final = 40
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
# Measured on 27 recordings of real people with known words, in English, French and Italian: docs/captions.md.
_PAUSE_BELOW_DB: Final = 30.0
_FLOOR: Final = 2.5e-4
_SHORT_PAUSE: Final = 8
"""Frames. Shorter silences are part of a sound, such as the closure of p and t."""
_LONG_PAUSE: Final = 12
"""Frames. A word lies on one side of a longer silence."""
_PIECE_S: Final = 24.0
_MARGIN_S: Final = 3.0
_COARSE_COLUMNS: Final = 5000
"""Columns of the coarse path at most; each is the mean of neighbouring frames, eight or more."""
_TO_TELL_LANGUAGES_S: Final = 10.0
_EVERY_TO_TELL: Final = 2
"""Languages are distinguished by every second frame, in a quarter of the time."""
_LIKELIER: Final = 0.002
"""The cost of a place further down the list of languages: it decides where few words leave the choice open."""
_SIGNS_WEIGH: Final = 0.1
"""What the words themselves say of their language, beside the difference of the sounds: a script in which every third
word is one of a language's commonest is 0.03 closer to it. Differences of neighbouring languages are 0.002 to 0.03."""
_POOR_FIT: Final = 0.365
"""Mean difference (1 less the cosine) above which script and recording are hardly of the same words. Measured on the
same recordings: their own scripts 0.25 to 0.36, another one's script of similar length 0.33 to 0.43, median 0.38. A
wrong script is noticed in two cases of three, and a right one is not doubted."""


_NEIGHBOURS: Final = 3
"""Words before and after a number that share the error of its reading."""
_SAME_READING: Final = (0.6, 1.5)
_OTHER_READING_S: Final = 0.5
"""A number and its neighbours whose length differs by this factor and these seconds are read in other words."""


@dataclass(frozen=True)
class _Sound:
    """A sound as it is compared: features float32 (2 x mels, n_frames), of length 1, and the frames of speech."""

    features: Array
    voiced: Indices


def align(words: Sequence[Word], speech: Speech, language: str | None) -> HeardScript:
    """Time `words` in `speech` (float32 mono, 16 kHz). language: None to detect it from the recording.

    Raises InvalidInput for a language that cannot be spoken, or writing that no known language uses.
    """
    if language is None:
        language = _language_of(words, speech)
    if is_japanese(language) and can_read_kanji():
        words = with_readings(words)
    spoken = speak(said([word.spoken for word in words], language), language)
    model, heard = _sound(spoken.samples), _sound(speech)
    spans, difference = _spans(spoken, model, heard)
    end_s = len(speech) / SPEECH_RATE_HZ
    timed = [
        HeardWord(word.text, word.blank_before, min(start_s, end_s), min(stop_s, end_s))
        for word, (start_s, stop_s) in zip(words, spans, strict=True)
    ]
    bounds = np.searchsorted(model.voiced, np.round(spoken.starts_s * FRAMES_PER_S))
    lengths_s = np.diff(bounds) / FRAMES_PER_S
    heard_s = np.diff(np.asarray(spans), axis=1)[:, 0]
    guessed = _guessed(words, language, lengths_s, heard_s)
    guesses_vowels = hides_vowels("".join(word.spoken for word in words))
    return HeardScript(tuple(timed), language, difference < _POOR_FIT, guessed, guesses_vowels)


def _guessed(
    words: Sequence[Word], language: str, model_s: NDArray[np.float64], heard_s: NDArray[np.float64]
) -> tuple[str, ...]:
    """The words whose times are guessed, each once, in order.

    These are the words whose sound no voice knows, and the words with digits that the recording reads otherwise: with
    their neighbours they last much longer or shorter there than in the synthetic speech, where words last model_s.
    """
    read = systems_read_in(language, "".join(word.spoken for word in words))
    tempo = float(np.median(heard_s / np.maximum(model_s, 1 / FRAMES_PER_S)))
    found: dict[str, None] = {}
    for at, word in enumerate(words):
        beside = slice(max(0, at - _NEIGHBOURS), at + _NEIGHBOURS + 1)
        last_s, expected_s = float(heard_s[beside].sum()), tempo * float(model_s[beside].sum())
        differs = abs(last_s - expected_s) > _OTHER_READING_S and not (
            _SAME_READING[0] < last_s / max(expected_s, 1e-3) < _SAME_READING[1]
        )
        if is_guessed(word.spoken, language, read) or (differs and any(c.isdigit() for c in word.spoken)):
            found[word.text] = None
    return tuple(found)


def _language_of(words: Sequence[Word], speech: Speech) -> str:
    """The language whose synthetic speech differs least from the beginning of the recording."""
    candidates = candidate_languages(words)
    if not candidates:
        raise InvalidInput(
            "The script is in a writing system without a known voice: give its language.", field="script"
        )
    if len(candidates) == 1:
        return candidates[0]
    heard = _sound(speech[: round(_TO_TELL_LANGUAGES_S * SPEECH_RATE_HZ)])
    # About as many words as are spoken in that time.
    share = min(1.0, _TO_TELL_LANGUAGES_S * SPEECH_RATE_HZ / max(1, len(speech)))
    first = [word.spoken for word in words[: max(3, round(len(words) * share))]]
    signs = signs_of(" ".join(word.text for word in words))

    def difference(rank: int) -> float:
        model = _sound(speak(said(first, candidates[rank]), candidates[rank]).samples)
        sparse = slice(None, None, _EVERY_TO_TELL)
        return (
            _path(model.features[:, model.voiced[sparse]], heard.features[:, heard.voiced[sparse]])[1]
            + rank * _LIKELIER
            - _SIGNS_WEIGH * min(1.0, signs.get(candidates[rank], 0.0) / len(words))
        )

    return candidates[min(range(len(candidates)), key=difference)]


# Spectra


@lru_cache(maxsize=1)
def _mel_filters() -> Array:
    """The mel bands as weights of the spectrum's bins: float32 (_N_MELS, _FFT // 2 + 1)."""
    from librosa.filters import mel  # takes a second to import, for this function alone

    return mel(sr=SPEECH_RATE_HZ, n_fft=_FFT, n_mels=_N_MELS, fmin=_LOWEST_HZ, fmax=_HIGHEST_HZ).astype(np.float32)


def _sound(samples: Speech) -> _Sound:
    """The features of a sound, block by block, so that the spectra of a long one are never all in memory."""
    n_frames = max(1, len(samples) // _HOP)
    energy = np.empty((_N_MELS, n_frames), np.float32)
    window = np.hanning(_WINDOW).astype(np.float32)
    block = 60 * FRAMES_PER_S
    for first in range(0, n_frames, block):
        stop = min(n_frames, first + block)
        left = first * _HOP - _WINDOW // 2
        piece = np.zeros((stop - first - 1) * _HOP + _WINDOW, np.float32)
        inside = np.asarray(samples[max(0, left) : left + len(piece)], np.float32)
        piece[max(0, -left) : max(0, -left) + len(inside)] = np.nan_to_num(inside)
        frames = np.lib.stride_tricks.sliding_window_view(piece, _WINDOW)[::_HOP]
        energy[:, first:stop] = _mel_filters() @ np.abs(np.fft.rfft(frames * window, _FFT)).T.astype(np.float32)
    voiced = _voiced(energy.sum(0))
    level = float(np.percentile(energy.sum(0), 95))
    log_energy = np.log(energy + np.float32(_FLOOR * level + 1e-9))
    mean = log_energy[:, voiced].mean(1, keepdims=True)
    scaled = (log_energy - mean) / (log_energy[:, voiced].std(1, keepdims=True) + 1e-3)
    features = np.concatenate([scaled, _slope(scaled)])
    features /= np.linalg.norm(features, axis=0) + 1e-6
    return _Sound(features, voiced)


def _slope(bands: Array) -> Array:
    """Least-squares slope of each band over five frames."""
    padded = np.pad(bands, ((0, 0), (2, 2)), mode="edge")
    n = bands.shape[1]
    slope = (2 * (padded[:, 4 : 4 + n] - padded[:, :n]) + padded[:, 3 : 3 + n] - padded[:, 1 : 1 + n]) / 10
    return slope.astype(np.float32)


def _voiced(energy: Array) -> Indices:
    """Frames that are no pause: louder than 30 dB below the loud ones, and than a quarter of the way up from the noise.
    A sound in which nothing stands out is voiced throughout."""
    level_db = 20 * np.log10(energy + 1e-9)
    quiet, loud = np.percentile(level_db, [5, 95])
    is_loud = level_db > max(loud - _PAUSE_BELOW_DB, quiet + (loud - quiet) / 4)
    if not is_loud.any():
        return np.arange(len(energy))
    loud_at = np.flatnonzero(is_loud)
    for before, after in pairwise(loud_at.tolist()):
        if after - before <= _SHORT_PAUSE + 1:
            is_loud[before:after] = True
    return np.flatnonzero(is_loud)


# Dynamic time warping


def _path(model: Array, heard: Array) -> tuple[Indices, float]:
    """The cheapest path from the first pair of frames to the last, and its mean difference.

    model, heard: features (bands, n) and (bands, m), columns of length 1; d is 1 - their cosine. The path is (k, 2),
    indices into `model` and `heard`.

    Computed along anti-diagonals, whose cells do not depend on each other: numpy then needs a step per diagonal, and
    nothing has to be compiled, which takes librosa's own function 18 s in a new process.
    """
    difference = np.ascontiguousarray(1.0 - model.T @ heard, np.float32)
    n, m = difference.shape
    flat = difference.ravel()
    came_from = np.zeros((n, m), np.uint8)
    steps = came_from.ravel()
    before = np.full(n + 1, np.inf, np.float32)  # costs of the last diagonal by row + 1
    before_that = before.copy()
    for diagonal in range(n + m - 1):
        low, high = max(0, diagonal - m + 1), min(n - 1, diagonal)
        cells = slice(diagonal + low * (m - 1), diagonal + high * (m - 1) + 1, max(1, m - 1))
        rows = slice(low + 1, high + 2)
        above = slice(low, high + 1)
        choices = np.stack([before_that[above], before[above], before[rows]])
        best = choices.argmin(0)
        cost = flat[cells] + (np.take_along_axis(choices, best[None], 0)[0] if diagonal else 0)
        steps[cells] = best
        now = np.full(n + 1, np.inf, np.float32)
        now[rows] = cost
        before_that, before = before, now
    path = [(n - 1, m - 1)]
    row, column = n - 1, m - 1
    while row or column:
        step = came_from[row, column] if row and column else (1 if row else 2)
        row, column = row - (step != 2), column - (step != 1)
        path.append((row, column))
    return np.array(path[::-1], np.intp), float(before[n]) / (n + m)


# Words


def _spans(spoken: Spoken, model: _Sound, heard: _Sound) -> tuple[list[tuple[float, float]], float]:
    """The seconds of each word in the recording, and the mean difference of the two sounds."""
    n_s = spoken.starts_s[-1]
    if max(n_s, len(heard.voiced) / FRAMES_PER_S) <= _PIECE_S + 2 * _MARGIN_S:
        return _fine(spoken.starts_s, model, heard, model.voiced, heard.voiced)
    to_heard = _coarse(model, heard)
    spans: list[tuple[float, float]] = []
    differences: list[float] = []
    starts = spoken.starts_s
    while len(spans) < len(starts) - 1:
        first = len(spans)
        stop = max(first + 1, int(np.searchsorted(starts, starts[first] + _PIECE_S)) - 1)
        stop = len(starts) - 1 if n_s - starts[stop] < _MARGIN_S else stop
        left_s, right_s = starts[first] - _MARGIN_S, starts[stop] + _MARGIN_S
        inside = model.voiced[(model.voiced >= left_s * FRAMES_PER_S) & (model.voiced <= right_s * FRAMES_PER_S)]
        from_frame = to_heard(left_s * FRAMES_PER_S) if left_s > 0 else 0.0
        to_frame = to_heard(right_s * FRAMES_PER_S) if right_s < n_s else np.inf
        beside = heard.voiced[(heard.voiced >= from_frame) & (heard.voiced <= to_frame)]
        if len(inside) and len(beside):
            fine, difference = _fine(starts[first : stop + 1], model, heard, inside, beside)
            spans += fine
            differences.append(difference)
        else:
            at_s = spans[-1][1] if spans else 0.0
            spans += [(at_s, at_s)] * (stop - first)
    return spans, float(np.mean(differences)) if differences else 1.0


def _coarse(model: _Sound, heard: _Sound) -> Callable[[float], float]:
    """From a frame of the synthetic speech to the frame of the recording, good to some tenths of a second."""

    n_averaged = max(8, -(-max(len(model.voiced), len(heard.voiced)) // _COARSE_COLUMNS))

    def averaged(sound: _Sound) -> tuple[Array, Indices]:
        firsts = np.arange(0, len(sound.voiced), n_averaged)
        sums = np.stack([sound.features[:, sound.voiced[i : i + n_averaged]].mean(1) for i in firsts], axis=1)
        return sums / (np.linalg.norm(sums, axis=0) + 1e-6), sound.voiced[firsts]

    coarse_model, model_at = averaged(model)
    coarse_heard, heard_at = averaged(heard)
    path, _ = _path(coarse_model, coarse_heard)
    at, to = model_at[path[:, 0]], heard_at[path[:, 1]]
    return lambda frame: float(np.interp(frame, at, to))


def _fine(
    starts_s: NDArray[np.float64], model: _Sound, heard: _Sound, model_frames: Indices, heard_frames: Indices
) -> tuple[list[tuple[float, float]], float]:
    """The spans of the words that start at `starts_s` (n_words + 1,), by the path between the given frames."""
    path, difference = _path(model.features[:, model_frames], heard.features[:, heard_frames])
    at, to = model_frames[path[:, 0]], heard_frames[path[:, 1]]
    bounds = np.round(starts_s * FRAMES_PER_S)
    spans: list[tuple[float, float]] = []
    last = int(to[0])
    for left, right in pairwise(bounds):
        low = int(np.searchsorted(at, left))
        high = max(int(np.searchsorted(at, right)), low + 1)
        matched = to[min(low, len(to) - 1) : high]
        frames = _on_one_side(matched)
        first = max(int(frames[0]), last)
        last = max(first, int(frames[-1]) + 1)
        spans.append((first / FRAMES_PER_S, last / FRAMES_PER_S))
    return spans, difference


def _on_one_side(matched: Indices) -> Indices:
    """The frames on that side of every long pause to which most of a word's sound was matched."""
    frames, counts = np.unique(matched, return_counts=True)
    cuts = np.flatnonzero(np.diff(frames) > _LONG_PAUSE) + 1
    groups = list(zip(np.split(frames, cuts), np.split(counts, cuts), strict=True))
    return max(groups, key=lambda group: int(group[1].sum()))[0]

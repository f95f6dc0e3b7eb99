"""The pose of every frame: the mouth from its track, blinks, brows and head movement from a seed.

A random generator decides when the eyes blink and how the head sways; the loudness of the speech decides how strongly.
A pose depends on the mouth's track, the seed and the frame's number alone, so a render can go on from any frame. Knows
no picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose

Track = NDArray[np.float32]

_FADE_IN_S = 0.7
_BLINK_CLOSE_S, _BLINK_HOLD_S, _BLINK_OPEN_S = 0.09, 0.04, 0.2
# Amplitudes of the head's sway: across and down in face heights, angles in radians.
_SWAY = {"across": 0.007, "down": 0.006, "roll": 0.011, "yaw": 0.026, "pitch": 0.018}
_BREATH_PERIOD_S = 3.9


@dataclass(frozen=True)
class Amounts:
    """Factors on the face's movements; 1 is natural."""

    head: float = 1.0
    mouth: float = 1.0
    blinks: bool = True


class Motion:
    """The poses of one video.

    mouth: float32 (n_frames, 3), columns opening 0 to 1, width -1 to 1, press 0 to 1 (speech.mouth_track).
    """

    def __init__(self, mouth: Track, fps: int, seed: int, amounts: Amounts) -> None:
        rng = np.random.default_rng(seed)
        n = len(mouth)
        t = np.arange(n) / fps
        opening = np.clip(mouth[:, 0] * amounts.mouth, 0, 1.15)
        speaking = _smooth((mouth[:, 0] > 0.06).astype(np.float64), fps, 1.0)
        stress = np.clip(_smooth(mouth[:, 0].astype(np.float64), fps, 0.5) - 0.25, 0, 1)
        fade = np.clip(t / _FADE_IN_S, 0, 1) ** 2 * (3 - 2 * np.clip(t / _FADE_IN_S, 0, 1))
        lively = fade * amounts.head * (0.45 + 0.55 * speaking)
        weights = np.zeros((n, len(head.BASES)), np.float32)
        for name, amplitude in _SWAY.items():
            weights[:, head.BASES.index(name)] = amplitude * lively * _sway(t, rng)
        # People dip their heads a little on stressed syllables and lift their brows.
        weights[:, head.BASES.index("pitch")] += 0.03 * stress * fade * amounts.head
        brow = 0.25 * _sway(t, rng) + 0.9 * stress * np.clip(_sway(t, rng) + 0.4, 0, 1)
        breath = 0.5 - 0.5 * np.cos(2 * np.pi * t / (_BREATH_PERIOD_S * rng.uniform(0.9, 1.1)))
        weights[:, head.BASES.index("breath")] = breath * fade * (1 - 0.5 * speaking)
        lids = _blinks(t, rng) if amounts.blinks else np.zeros((n, 2))
        weights[:, head.BASES.index("brow")] = brow * fade - 0.2 * lids.max(axis=1)
        self._opening, self._width, self._press = opening, mouth[:, 1], mouth[:, 2]
        self._head, self._lids = weights, lids

    def pose(self, frame: int) -> Pose:
        width, press = float(self._width[frame]), float(np.clip(self._press[frame], 0, 1))
        mouth = MouthPose(
            open=float(self._opening[frame]), close=1.0, spread=max(width, 0.0), narrow=max(-width, 0.0), press=press
        )
        return Pose(mouth, self._head[frame], (float(self._lids[frame, 0]), float(self._lids[frame, 1])))


def _sway(t: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Slow smooth noise of about unit size at the times t (s): a sum of sine waves, the longer ones larger. (n,)."""
    rates = np.geomspace(0.09, 0.75, 5) * rng.uniform(0.85, 1.15, 5)
    phases = rng.uniform(0, 2 * np.pi, 5)
    sizes = rates**-0.6
    sizes /= np.sqrt((sizes**2).sum() / 2)
    # Starts at zero, so that the first frame is the portrait.
    waves = np.sin(2 * np.pi * np.outer(t, rates) + phases) @ sizes
    return np.asarray(waves)


def _blinks(t: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The closing of each eye, (n_frames, 2), 0 open to 1 shut: a blink every 2 to 6 s, down fast and up slowly."""
    lids = np.zeros((len(t), 2))
    end = t[-1] if len(t) else 0.0
    start = rng.uniform(0.9, 2.5)
    while start < end:
        depth, late = rng.uniform(0.93, 1.0), rng.uniform(-0.012, 0.012)
        for eye in (0, 1):
            since = t - start - eye * late
            down = np.clip(since / _BLINK_CLOSE_S, 0, 1)
            up = np.clip((since - _BLINK_CLOSE_S - _BLINK_HOLD_S) / _BLINK_OPEN_S, 0, 1)
            lids[:, eye] = np.maximum(lids[:, eye], depth * (down**2 * (3 - 2 * down)) * (1 - up) ** 1.6)
        # One blink in twelve is followed by a second one.
        start += 0.45 if rng.random() < 0.08 else rng.uniform(2.0, 6.0)
    return lids


def _smooth(values: NDArray[np.float64], fps: int, span_s: float) -> NDArray[np.float64]:
    """A running mean with soft ends over `span_s` seconds, as long as its input."""
    kernel = np.hanning(max(3, int(span_s * fps) | 1) + 2)[1:-1]
    half = len(kernel) // 2
    return np.convolve(np.pad(values, half, mode="edge"), kernel / kernel.sum(), mode="valid")

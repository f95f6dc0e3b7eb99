"""Blinks: a float32 value for each frame, an input of ExpNet beside the sound.

The values are drawn from Python's generator as in the reference, which crashes for a recording of exactly 21 frames.
"""

from random import Random

import numpy as np
from numpy.typing import NDArray

CLOSING = (0.5, 0.9, 1.0, 0.9, 0.5)
_MIN_GAP, _MAX_GAP = 10, 70
_MIN_FRAMES = 21


def blink_track(n_frames: int, seed: int) -> NDArray[np.float32]:
    """The blink value of each frame, float32 (n_frames,) in [0, 1].

    0 keeps the source's eyes, 1 shuts them. seed: of Python's generator. A recording of up to 21 frames has no blink.
    """
    track = np.zeros(n_frames, np.float32)
    if n_frames < _MIN_FRAMES:
        return track
    draw = Random(seed)
    low, high = min(_MIN_GAP, n_frames), min(n_frames // 2, _MAX_GAP)
    frame = 0
    while low < high:
        start = frame + draw.choice(range(low, high))
        frame = start + len(CLOSING)
        if frame > n_frames - 1:
            break
        track[start:frame] = CLOSING
    return track

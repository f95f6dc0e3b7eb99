"""Head angles that the caller gives instead of the predicted ones: one per frame, along a path."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def camera_path(degrees: Sequence[float], n_frames: int) -> NDArray[np.float64]:
    """One angle for each frame, along the given angles at constant speed: float64 (n_frames,), degrees.

    As in the reference, a leg of the path may end one step before its last angle, and the path's last value is held.
    Between equal neighbours, where the reference divides by zero, the angle does not change.
    """
    steps = np.diff(np.asarray(degrees, np.float64))
    total = float(np.abs(steps).sum())
    if total == 0 or n_frames < 2:
        return np.full(n_frames, float(degrees[0]))
    speed = total / (n_frames - 1)
    legs = [np.arange(start, stop, np.sign(stop - start) * speed) for start, stop in pairwise(degrees) if start != stop]
    path = np.concatenate(legs)[:n_frames]
    return np.pad(path, (0, n_frames - len(path)), mode="edge")

"""Head angles that the caller gives instead of the predicted ones, and motion borrowed from a reference video.

Pure arithmetic on tracks of coefficients; knows no networks.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.sadtalker.arrays import Rows
from lipsync_server.engines.sadtalker.coefficients import N_EXPRESSION, N_MOTION


def camera_path(degrees: Sequence[float], n_frames: int) -> NDArray[np.float64]:
    """One angle per frame along the given ones at constant speed: (n_frames,) degrees.

    As in the reference, legs end up to one step short of their last angle and the path's last value is held. Equal
    neighbours, on which the reference divides by zero, stand still.
    """
    steps = np.diff(np.asarray(degrees, np.float64))
    total = float(np.abs(steps).sum())
    if total == 0 or n_frames < 2:
        return np.full(n_frames, float(degrees[0]))
    speed = total / (n_frames - 1)
    legs = [np.arange(start, stop, np.sign(stop - start) * speed) for start, stop in pairwise(degrees) if start != stop]
    path = np.concatenate(legs)[:n_frames]
    return np.pad(path, (0, n_frames - len(path)), mode="edge")


def with_reference_pose(generated: Rows, reference: Rows, first: int = 0) -> Rows:
    """Add a reference video's head motion (its pose less that of its first frame, looped) to generated rows.

    generated: (n, 70), whose first row is frame `first`; reference: (m, 70 or more).
    """
    index = (first + np.arange(len(generated))) % len(reference)
    result = generated.copy()
    result[:, N_EXPRESSION:N_MOTION] += (reference[index] - reference[0])[:, N_EXPRESSION:N_MOTION]
    return result


def reference_expression(reference: Rows, first: int, stop: int) -> Rows:
    """What ExpNet takes as the source's expression for frames [first, stop) when a video gives it, looped: (n, 64)."""
    return reference[np.arange(first, stop) % len(reference), :N_EXPRESSION]

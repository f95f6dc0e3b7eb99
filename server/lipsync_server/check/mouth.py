"""The opening of the mouth and the shape of the face from landmarks, and arithmetic on curves.

Lengths are shares of the height of the face. The height is measured from the line of the eyes to the base of the nose,
because the chin moves with the speech. A curve has 100 values a second (the grid). Knows no sound.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.landmarks import Points

Curve = NDArray[np.float64]

GRID_HZ: Final = 100
_GAP_PAIRS: Final = ((82, 87), (13, 14), (312, 317))
"""Upper and lower inner lip."""
_EYES: Final = (33, 133, 362, 263)
_SUBNASAL: Final = 2
_RIGHT_EYE, _LEFT_EYE = 33, 263
_FACE_PER_NOSE: Final = 3.9
"""Height of a face over the distance from the line of the eyes to the base of the nose; median of portraits."""
RIGID: Final = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 19, 94, 98, 327, 127, 356, 234, 454, 10, 109, 338)
"""Landmarks that do not move with speech: corners of the eyes, nose, temples, forehead."""


def face_height(points: Points) -> float:
    """Height of the face in pixels. points: float32 (478, 3)."""
    eyes = points[list(_EYES), :2].mean(axis=0)
    return _FACE_PER_NOSE * float(np.linalg.norm(points[_SUBNASAL, :2] - eyes))


def opening(points: Points) -> float:
    """Gap between the inner lips, as a share of the face's height."""
    across = points[_LEFT_EYE, :2] - points[_RIGHT_EYE, :2]
    across = across / max(float(np.linalg.norm(across)), 1e-6)
    down = np.array([-across[1], across[0]])
    gaps = [float((points[low, :2] - points[high, :2]) @ down) for high, low in _GAP_PAIRS]
    return float(np.mean(gaps)) / max(face_height(points), 1e-6)


def shape(points: Points) -> NDArray[np.float32]:
    """The rigid landmarks after removing position, size and roll: float32 (22, 2), root mean square radius 1."""
    rigid = points[list(RIGID), :2].astype(np.float64)
    rigid -= rigid.mean(axis=0)
    across = points[_LEFT_EYE, :2] - points[_RIGHT_EYE, :2]
    angle = np.arctan2(across[1], across[0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rigid = rigid @ turn
    radius = float(np.sqrt((rigid**2).sum(axis=1).mean()))
    return np.asarray(rigid / max(radius, 1e-6), np.float32)


def on_grid(values: Curve, fps: float) -> Curve:
    """Resample values at the frames of a video to one every 10 ms, by linear interpolation also over NaN."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        return np.zeros(0)
    n = int(len(values) / fps * GRID_HZ)
    return np.interp(np.arange(n) / GRID_HZ, known / fps, values[known])


def smooth(curve: Curve, sigma_s: float) -> Curve:
    """Gaussian smoothing of a curve on the grid. The first and the last value are repeated beyond the ends."""
    if not len(curve):
        return curve
    reach = int(np.ceil(3.5 * sigma_s * GRID_HZ))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma_s * GRID_HZ)) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), taps / taps.sum(), "valid")


def correlation(a: Curve, b: Curve) -> float:
    """Pearson's correlation of two curves of one length; 0 if one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 1e-12 else 0.0

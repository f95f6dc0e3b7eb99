"""Movement of the head, the brows and the chest: small, and fading to zero towards shoulders and background.

Each kind of movement (BASES) has one displacement field, computed once for a portrait. A frame's field is their
weighted sum, moves(x) = sum_b weights[b] * bases[b](x). Turning the head by a small angle moves a point in proportion
to its depth, and the face mesh gives the depth, so the nose moves further than the ears. Knows nothing of the mouth.
"""

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field, Grid, come_from, smooth_step
from lipsync_server.engines.preview.mesh import BROWS, FACE_OVAL, FaceFrame

# Units of the weights: across and down in face heights; roll, yaw and pitch in radians; brow and breath 0 to 1.
BASES = ("across", "down", "roll", "yaw", "pitch", "brow", "breath")
_BROW_LIFT, _BREATH_LIFT = 0.016, 0.006


class Head:
    """The displacement fields of one portrait's head, on a coarse grid over the part of the picture that may move.

    points: float32 (478, 3), landmarks in pixels. picture_size: (height, width) in pixels.
    """

    def __init__(self, points: Points, frame: FaceFrame, picture_size: tuple[int, int]) -> None:
        local = frame.local(points[:, :2].astype(np.float64))
        oval = local[list(FACE_OVAL)]
        middle, half = (oval.max(axis=0) + oval.min(axis=0)) / 2, np.ptp(oval, axis=0) / 2
        chin = float(local[152, 1])
        # Hair reaches further up than the mesh does.
        centre, radius = middle - (0.0, 0.12 * half[1]), half * (1.35, 1.3)
        self.grid = _cover(frame, centre, radius, chin, picture_size)
        self._places = self.grid.places()
        at = frame.local(self._places.astype(np.float64))
        distance = np.sqrt((((at - centre) / radius) ** 2).sum(axis=-1))
        neck = 1 - smooth_step(at[..., 1], chin - 0.02, chin + 0.42)
        weight = (1 - smooth_step(distance, 0.9, 1.75)) * neck
        depth = _depth(local, -points[:, 2].astype(np.float64) / frame.height, at)
        pivot = np.array([middle[0], chin + 0.25])
        away = at - pivot
        zero = np.zeros_like(weight)
        chest = smooth_step(at[..., 1], chin + 0.1, chin + 0.5) * (1 - smooth_step(at[..., 1], chin + 0.65, chin + 1.0))
        chest *= 1 - smooth_step(np.abs(at[..., 0] - middle[0]), 0.55, 1.05)
        brows = local[[i for brow in BROWS for i in brow]]
        nearest = ((at[..., None, :] - brows) ** 2).sum(axis=-1).min(axis=-1)
        bases = [
            (weight, zero),
            (zero, weight),
            (-away[..., 1] * weight, away[..., 0] * weight),
            (depth * weight, zero),
            (zero, depth * weight),
            (zero, -_BROW_LIFT * np.exp(-nearest / (2 * 0.035**2))),
            (zero, -_BREATH_LIFT * (chest + 0.3 * weight)),
        ]
        fields = [frame.vectors(np.stack(np.broadcast_arrays(*base), axis=-1)) for base in bases]
        self._bases = np.ascontiguousarray(np.stack(fields), np.float32)

    def come_from(self, weights: Field) -> Field:
        """The place in the still portrait from which the content of each node of `grid` comes.

        weights: float32 (len(BASES),). Returns float32 (rows, columns, 2), (x, y) in pixels.
        """
        return self._places + come_from(np.tensordot(weights, self._bases, axes=1), self.grid.stride, 2)


def _cover(
    frame: FaceFrame,
    centre: NDArray[np.float64],
    radius: NDArray[np.float64],
    chin: float,
    picture_size: tuple[int, int],
) -> Grid:
    """The grid over head, neck and chest. centre, radius, chin: in face heights."""
    left, right = (
        min(centre[0] - 1.75 * radius[0], centre[0] - 1.05),
        max(centre[0] + 1.75 * radius[0], centre[0] + 1.05),
    )
    low, high = np.array([left, centre[1] - 1.75 * radius[1]]), np.array([right, chin + 1.0])
    return frame.rectangle(low, high, picture_size, stride=max(2, round(frame.height / 40)))


def _depth(local: NDArray[np.float64], near: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depth at every node in face heights, (rows, columns); a larger number is nearer. Smoothed, flat outside the face.

    local: float64 (478, 2), landmarks in face heights. near: float64 (478,), their depth. at: float64 (rows, columns,
    2).
    """
    oval = list(FACE_OVAL)
    rim = local[oval].mean(axis=0) + 1.3 * (local[oval] - local[oval].mean(axis=0))
    level = float(near[oval].mean())
    places = np.concatenate([local[::3], rim])
    values = np.concatenate([near[::3], np.full(len(rim), level)])
    total, mass = np.zeros(at.shape[:2]), np.full(at.shape[:2], 1e-3)
    for place, value in zip(places, values, strict=True):
        closeness = np.exp(-((at - place) ** 2).sum(axis=-1) / (2 * 0.07**2))
        total += closeness * (value - level)
        mass += closeness
    return np.asarray(total / mass)

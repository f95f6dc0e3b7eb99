"""Names for the mesh points that the preview engine moves, and the face's own axes.

The 478 points and their order are MediaPipe's. Lip rings run from the picture's left corner of the mouth to the right
one, from the outer edge (ring 0) to the inner edge (ring 3). Knows no pixels' colours and no motion.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Grid

Floats = NDArray[np.float64]

UPPER_LIP = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306),
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292),
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
)
LOWER_LIP = (
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306),
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
# Lid edges from the picture's left end to the right one; the person's right eye comes first.
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (362, 398, 384, 385, 386, 387, 388, 466, 263))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (362, 382, 381, 380, 374, 373, 390, 249, 263))
IRIS_CENTRES = (468, 473)
BROWS = ((70, 63, 105, 66, 107, 46, 53, 52, 65, 55), (336, 296, 334, 293, 300, 285, 295, 282, 283, 276))
BROW_LOWER_EDGES = ((46, 53, 52, 65, 55), (285, 295, 282, 283, 276))
FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
CHEEKS = (50, 280, 205, 425)
_EYE_CORNERS = (33, 133, 362, 263)
_NOSE_BASE, _CHIN = 2, 152
# Height of a face at rest, divided by the distance from the line of the eyes to the base of the nose; median of
# portraits.
_HEIGHT_PER_NOSE = 3.9
_GAP_PAIRS = ((82, 87), (13, 14), (312, 317))


@dataclass(frozen=True)
class FaceFrame:
    """The face's axes in the picture, so that lengths can be given in face heights for any size and tilt of a face.

    origin: the middle between the corners of the mouth, (x, y) in pixels. right, down: unit vectors (x, y). height: the
    face's height in pixels, taken from eyes and nose, which speech does not move. yaw: the turn of the head in radians.
    """

    origin: Floats
    right: Floats
    down: Floats
    height: float
    yaw: float

    @classmethod
    def of(cls, points: Points, yaw: float = 0.0) -> "FaceFrame":
        """The axes of a face. points: float32 (478, 3) in pixels. yaw: the head's turn in radians."""
        flat = points[:, :2].astype(np.float64)
        right = flat[263] - flat[33]
        right /= np.linalg.norm(right)
        origin = (flat[61] + flat[291]) / 2
        eyes = flat[list(_EYE_CORNERS)].mean(axis=0)
        height = _HEIGHT_PER_NOSE * float(np.linalg.norm(flat[_NOSE_BASE] - eyes))
        return cls(origin, right, np.array([-right[1], right[0]]), height, yaw)

    def local(self, places: Floats) -> Floats:
        """Pixel coordinates (..., 2) -> (across, down) from the origin in face heights, float64 (..., 2)."""
        away = (places - self.origin) / self.height
        return np.stack([away @ self.right, away @ self.down], axis=-1)

    def vectors(self, local: Floats) -> Floats:
        """(across, down) in face heights -> displacement (x, y) in pixels, shortened across by the yaw; (..., 2)."""
        across = local[..., :1] * max(0.5, float(np.cos(self.yaw)))
        return (across * self.right + local[..., 1:] * self.down) * self.height

    def rectangle(self, low: Floats, high: Floats, picture_size: tuple[int, int], stride: int) -> Grid:
        """A grid over the upright rectangle around the corners `low` and `high`, cut at the picture's border.

        low, high: (across, down) in face heights. picture_size: (height, width) in pixels.
        """
        corners = np.array([[u, v] for u in (low[0], high[0]) for v in (low[1], high[1])])
        pixels = self.origin + self.height * (corners[:, :1] * self.right + corners[:, 1:] * self.down)
        limit = (picture_size[1], picture_size[0])
        left, top = np.clip(np.floor(pixels.min(axis=0)).astype(int), 0, np.subtract(limit, 1))
        right, bottom = np.clip(np.ceil(pixels.max(axis=0)).astype(int) + 1, (left + 1, top + 1), limit)
        return Grid(int(left), int(top), int(right - left), int(bottom - top), stride)


def lip_gap(points: Points, frame: FaceFrame) -> float:
    """The gap between the lips in face heights: the mean of three distances between the inner edges.

    points: float32 (478, 3), as in `landmarks.Face`.
    """
    gaps = [(points[low, :2] - points[up, :2]) @ frame.down for up, low in _GAP_PAIRS]
    return float(np.mean(gaps)) / frame.height


def lid_gap(points: Points, frame: FaceFrame, eye: int) -> float:
    """The gap between the lids in face heights, in the middle of the eye. eye: 0 for the picture's left eye.

    points: float32 (478, 3), as in `landmarks.Face`.
    """
    upper, lower = (points[list(lids[eye][3:6]), :2] for lids in (UPPER_LIDS, LOWER_LIDS))
    return float(((lower - upper) @ frame.down).mean()) / frame.height

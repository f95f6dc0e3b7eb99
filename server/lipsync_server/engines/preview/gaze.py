"""Small movements of the eyes: the iris moves between the lids, which stay in their places.

Only the content between the lids moves, most at the iris and not at all at the corners of the eye, so the white is
stretched on one side and narrowed on the other. Knows no time and no speech.
"""

import numpy as np

from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field, smooth_step
from lipsync_server.engines.preview.mesh import IRIS_CENTRES, LOWER_LIDS, UPPER_LIDS, FaceFrame

FULL_GAZE = (0.007, 0.0025)
"""The iris's way across and down at a gaze of 1, in face heights: about six degrees of the eye."""
# The reach of the movement beside the iris, which has a radius of about 0.032, and the soft edge at the lids.
_REACH, _EDGE = 0.04, 0.003


class Eye:
    """One eye whose iris can move. eye: 0 for the picture's left eye. grid: the pixels of the picture around it."""

    def __init__(self, points: Points, frame: FaceFrame, eye: int, picture_size: tuple[int, int]) -> None:
        local = frame.local(points[:, :2].astype(np.float64))
        upper, lower = local[list(UPPER_LIDS[eye])], local[list(LOWER_LIDS[eye])]
        both = np.concatenate([upper, lower])
        self._frame = frame
        self.grid = frame.rectangle(both.min(axis=0) - _EDGE, both.max(axis=0) + _EDGE, picture_size, stride=1)
        at = frame.local(self.grid.places().astype(np.float64))
        across, down = at[..., 0], at[..., 1]
        below = down - np.interp(across, *upper[np.argsort(upper[:, 0])].T)
        above = np.interp(across, *lower[np.argsort(lower[:, 0])].T) - down
        inside = smooth_step(below, 0.0, _EDGE) * smooth_step(above, 0.0, _EDGE)
        left, right = both[:, 0].min(), both[:, 0].max()
        inside *= smooth_step(across, left, left + 0.02) * (1 - smooth_step(across, right - 0.02, right))
        iris = local[IRIS_CENTRES[eye], 0]
        share = inside * np.exp(-(((across - iris) / _REACH) ** 4))
        self._share = np.asarray(share, np.float32)[..., None]

    def look(self, source: Field, gaze: tuple[float, float]) -> Field:
        """Where the content comes from after the iris has moved.

        source: float32 (h, w, 2), pixel coordinates in the still portrait. gaze: across and down, -1 to 1 each.
        """
        way = self._frame.vectors(np.array(gaze) * FULL_GAZE).astype(np.float32)
        return source - self.grid.sample(self._share, source).reshape(*source.shape[:2], 1) * way

"""Blinks: the upper lid moves down over the eye, and the skin below the brow stretches with it.

The movement is along the face's vertical axis only, so the source of each pixel has a closed form and no inversion is
needed. Knows the mesh and pixel coordinates. Does not know when to blink.
"""

from dataclasses import dataclass

import numpy as np

from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field, smooth_step
from lipsync_server.engines.preview.mesh import BROW_LOWER_EDGES, LOWER_LIDS, UPPER_LIDS, FaceFrame, Floats

# The strip of the lashes, from this far above to this far below the mesh's lid edge (face heights). It moves down with
# the lid and is not stretched.
_LASHES_ABOVE, _LASHES_BELOW = 0.011, 0.0015
_LEAST_GAP = 0.012
# The least and the largest height of the skin above the lid edge that stretches, in face heights.
_LID_SKIN = (0.03, 0.048)


@dataclass(frozen=True)
class _Curve:
    across: Floats
    down: Floats

    def __call__(self, across: Floats) -> Floats:
        return np.interp(across, self.across, self.down)


class Lid:
    """One eye's upper lid."""

    def __init__(self, points: Points, frame: FaceFrame, eye: int, picture_size: tuple[int, int]) -> None:
        self._frame = frame
        local = frame.local(points[:, :2].astype(np.float64))
        upper, lower = local[list(UPPER_LIDS[eye])], local[list(LOWER_LIDS[eye])]
        brow = local[list(BROW_LOWER_EDGES[eye])]
        brow = brow[np.argsort(brow[:, 0])]
        gap = float((lower[3:6, 1] - upper[3:6, 1]).mean())
        self.can_blink = gap > _LEAST_GAP
        u = np.linspace(upper[0, 0], upper[-1, 0], 65)
        edge, floor = _smooth(u, upper), _smooth(u, lower)
        # The skin that stretches ends below the brow, whose hairs must not stretch, and below the rim of glasses.
        ceiling = np.clip(np.interp(u, brow[:, 0], brow[:, 1]), edge - _LID_SKIN[1], edge - _LID_SKIN[0])
        self._edge, self._floor, self._ceiling = _Curve(u, edge), _Curve(u, np.maximum(floor, edge)), _Curve(u, ceiling)
        self._ends = float(upper[0, 0]), float(upper[-1, 0])
        low = np.array([self._ends[0] - 0.01, float(ceiling.min()) - 0.01])
        high = np.array([self._ends[1] + 0.01, float(floor.max()) + 0.02])
        self.grid = frame.rectangle(low, high, picture_size, stride=1)

    def shift(self, places: Field, closed: float) -> Field:
        """The backward displacement of a lid that is closed by `closed` (0 open, 1 shut).

        places: float32 (h, w, 2), pixel coordinates in the still portrait. Returns float32 (h, w, 2): how far from each
        place its content comes, in pixels; zero off the lid.
        """
        frame = self._frame
        at = frame.local(places.astype(np.float64))
        across, down = at[..., 0], at[..., 1]
        edge, ceiling = self._edge(across) + _LASHES_BELOW, self._ceiling(across)
        drop = closed * np.maximum(self._floor(across) - edge, 0)
        lowered = edge + drop
        skin = edge - (_LASHES_ABOVE + _LASHES_BELOW)
        span, stretched = skin - ceiling, skin + drop - ceiling
        ratio = np.minimum(stretched / span, 1.8)
        t = np.clip((down - ceiling) / stretched, 0, 1)
        # A real lid unrolls: the skin next to the brow keeps its scale. An even stretch would scale all of it. This is
        # the mean of the two.
        source = ceiling + span * (0.5 * t + 0.5 * (ratio * t + (1 - ratio) * t * t))
        source = np.where(down > skin + drop, down - drop, source)
        soft = 1.0 / frame.height
        inside = smooth_step(across, self._ends[0], self._ends[0] + 0.02)
        inside *= 1 - smooth_step(across, self._ends[1] - 0.02, self._ends[1])
        inside *= (down > ceiling) * (1 - smooth_step(down - lowered, -soft, soft))
        return ((source - down) * inside)[..., None].astype(np.float32) * (frame.down * frame.height).astype(np.float32)


def _smooth(u: Floats, chain: Floats) -> Floats:
    """The height of a chain of mesh points at `u`, with its corners rounded off. Both (n,)."""
    order = np.maximum.accumulate(chain[:, 0] + np.arange(len(chain)) * 1e-6)
    line = np.interp(u, order, chain[:, 1])
    padded = np.pad(line, 4, mode="reflect", reflect_type="odd")
    kernel = np.hanning(11)[1:-1]
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")

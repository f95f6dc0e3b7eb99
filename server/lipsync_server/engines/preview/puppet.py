"""One portrait, ready to be animated: a pose in, a frame out.

Only the part of the picture that can move is drawn anew; every pixel of it is interpolated once, from a map that head,
mouth and lids have bent together. Knows no sound and no time.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Face
from lipsync_server.engines.preview.fields import Field, Grid
from lipsync_server.engines.preview.head import Head
from lipsync_server.engines.preview.interior import Interior
from lipsync_server.engines.preview.lids import Lid
from lipsync_server.engines.preview.mesh import FaceFrame
from lipsync_server.engines.preview.mouth import Mouth, MouthPose

_LIP_EDGE_PX = 1.2


@dataclass(frozen=True)
class Pose:
    """Everything that differs between two frames of one portrait.

    head: weights of head.BASES. lids: how far the eyes are closed, the picture's left one first, 0 to 1.
    """

    mouth: MouthPose
    head: Field
    lids: tuple[float, float] = (0.0, 0.0)


class Puppet:
    """A portrait with its fields. Drawing is deterministic and keeps nothing from frame to frame."""

    def __init__(self, picture: Frames, face: Face) -> None:
        self.picture = picture
        self.frame = FaceFrame.of(face.points, face.yaw)
        size = picture.shape[0], picture.shape[1]
        stride = max(1, round(self.frame.height / 90))
        self.mouth = Mouth(face.points, self.frame, stride, size)
        self._interior = Interior(picture, face.points, self.mouth)
        self._head = Head(face.points, self.frame, size)
        self._lids = [Lid(face.points, self.frame, eye, size) for eye in (0, 1)]
        grid = self._head.grid
        y, x = np.mgrid[grid.top : grid.top + grid.height, grid.left : grid.left + grid.width].astype(np.float32)
        self._places = np.stack([x, y], axis=-1)

    def draw(self, pose: Pose, out: Frames) -> None:
        """Draw the portrait in `pose` into `out`, uint8 RGB of the picture's size, which holds the still picture."""
        grid = self._head.grid
        # Where each pixel comes from in the still picture, with the head's movement undone.
        still = grid.enlarge(self._head.come_from(pose.head))
        still += self._places
        source = still
        for lid, closed in zip(self._lids, pose.lids, strict=True):
            if closed > 0 and lid.can_blink:
                part = _window(lid.grid, grid, margin=int(0.03 * self.frame.height))
                source = source.copy() if source is still else source
                source[part] += lid.shift(still[part][..., 0], still[part][..., 1], closed)
        part = _window(self.mouth.grid, grid)
        x, y = (np.ascontiguousarray(still[part][..., i]) for i in (0, 1))
        upper_field, lower_field = self.mouth.layers(pose.mouth)
        upper = self.mouth.grid.sample(upper_field, x, y)
        lower = self.mouth.grid.sample(lower_field, x, y)
        below_upper, softness, below_lower = upper[..., 2], upper[..., 3], lower[..., 2]
        share = np.clip(0.5 + (below_upper + below_lower) / (2 * np.maximum(softness, 0.5)), 0, 1)[..., None]
        inside = np.clip(below_upper / _LIP_EDGE_PX, 0, 1) * np.clip(-below_lower / _LIP_EDGE_PX, 0, 1)
        inside *= np.clip(2.5 - softness, 0, 1)
        source = source.copy() if source is still else source
        mouth_map = source[part]
        mouth_map += upper[..., :2] + share * (lower[..., :2] - upper[..., :2])
        rows, columns = np.flatnonzero(inside.max(axis=1) > 0), np.flatnonzero(inside.max(axis=0) > 0)
        shows = len(rows) > 0 and len(columns) > 0
        if shows:
            hole = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            alpha = inside[hole]
            colour, own = self._interior.paint(
                x[hole], y[hole], below_upper[hole], below_lower[hole], self.mouth.jaw_drop(pose.mouth)
            )
            if own is not None:
                # Where the portrait shows its own teeth they stand still with the skull.
                kept = (own * alpha)[..., None]
                mouth_map[hole] += kept * (still[part][hole] - mouth_map[hole])
                alpha = alpha * (1 - own)
        area = out[grid.top : grid.top + grid.height, grid.left : grid.left + grid.width]
        area[...] = cv2.remap(
            self.picture, source[..., 0], source[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        if shows:
            pixels = area[part][hole]
            pixels[...] = np.rint(pixels + alpha[..., None] * (colour - pixels)).astype(np.uint8)


def _window(inner: Grid, outer: Grid, margin: int = 0) -> tuple[slice, slice]:
    """The rows and columns of `outer` that `inner` covers, with a margin in pixels."""
    top, left = max(inner.top - margin - outer.top, 0), max(inner.left - margin - outer.left, 0)
    bottom = min(inner.top + inner.height + margin - outer.top, outer.height)
    right = min(inner.left + inner.width + margin - outer.left, outer.width)
    return slice(top, max(top, bottom)), slice(left, max(left, right))

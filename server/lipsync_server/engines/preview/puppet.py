"""A puppet: one portrait prepared for animation. The puppet draws one frame for a pose.

Head, mouth and lids each have a backward displacement (fields.py). The displacements are composed into one map from
target to source pixels, so every moving pixel is interpolated once and stays sharp. Pixels that cannot move are not
drawn again. Knows no sound and no time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Face
from lipsync_server.engines.preview.fields import Field, Grid, pull
from lipsync_server.engines.preview.fine_picture import FinePicture
from lipsync_server.engines.preview.gaze import Eye
from lipsync_server.engines.preview.head import Head
from lipsync_server.engines.preview.interior import Interior
from lipsync_server.engines.preview.lids import Lid
from lipsync_server.engines.preview.mesh import FaceFrame
from lipsync_server.engines.preview.mouth import Mouth, MouthPose, lower_share

# The mouth's inside begins _LIPS_MEET_PX behind a lip's edge and is opaque _LIP_EDGE_PX further in.
_LIPS_MEET_PX, _LIP_EDGE_PX = 0.3, 1.2
_SEAM = 0.4
# The most that content moves into the head's grid from outside, in face heights.
_FINE_MARGIN = 0.15
# A shorter movement does not change a pixel by a grey level.
_LEAST_MOVE_PX = 1 / 64
# An eye whose width is less than this share of the other's is turned away.
_TURNED_AWAY = 0.5
# Far beyond the corners of the mouth, the layers blend over more than this width, and both move alike.
_BLEND_WITHIN_PX = 8


@dataclass(frozen=True)
class Pose:
    """The pose of one frame. Two frames of a portrait differ only in their poses.

    head: float32 (len(head.BASES),), weights of the head's movements. lids: closing of the eyes, 0 open to 1 shut, the
    picture's left eye first. gaze: where both eyes look, across and down, -1 to 1; (0, 0) as in the portrait.
    """

    mouth: MouthPose
    head: Field
    lids: tuple[float, float] = (0.0, 0.0)
    gaze: tuple[float, float] = (0.0, 0.0)


class Puppet:
    """A portrait with its displacement fields. A frame depends only on its pose, not on other frames."""

    def __init__(self, picture: Frames, face: Face) -> None:
        self.picture = picture
        self.frame = FaceFrame.of(face.points, face.yaw)
        size = picture.shape[0], picture.shape[1]
        stride = max(1, round(self.frame.height / 64))
        self.mouth = Mouth(face.points, self.frame, stride, size)
        self._interior = Interior(picture, face.points, self.mouth)
        self._head = Head(face.points, self.frame, size)
        lids = [Lid(picture, face.points, self.frame, eye, size) for eye in (0, 1)]
        grid, margin = self._head.grid, int(_FINE_MARGIN * self.frame.height)
        left, top = max(grid.left - margin, 0), max(grid.top - margin, 0)
        right, bottom = min(grid.left + grid.width + margin, size[1]), min(grid.top + grid.height + margin, size[0])
        self._fine = FinePicture(picture, left, top, right, bottom)
        # The lids by eye, 0 for the picture's left eye. An eye that is turned away has no lid here.
        self.lids = {
            eye: lid for eye, lid in enumerate(lids) if lid.width > _TURNED_AWAY * max(lid.width for lid in lids)
        }
        self._eyes = [Eye(face.points, self.frame, eye, size) for eye in self.lids]
        self._seam_px = max(0.8, 0.0045 * self.frame.height)
        self._nodes = self._head.grid.places()
        # Nodes around mouth and eyes, which are drawn in every frame.
        self._drawn = np.zeros(self._head.grid.shape, np.bool_)
        for inner in (self.mouth.grid, self.mouth.lips, *(lid.grid for lid in self.lids.values())):
            self._drawn[self._head.grid.cells(inner, int(0.03 * self.frame.height) + 1)] = True
        self._mouth_nodes = self._head.grid.node_coordinates(self.mouth.grid.places())

    def draw(self, pose: Pose, out: Frames) -> None:
        """Draw the portrait in `pose` into `out`.

        out: uint8 RGB (H, W, 3), filled with the picture. Pixels that do not move are left as they are.
        """
        # The source of each pixel in the still picture is computed in three steps. The first undoes the head's
        # movement.
        head = self._head.come_from(pose.head)
        grid, moved = self._moving(head)
        source = grid.enlarge(moved)
        margin = int(0.03 * self.frame.height)
        lips = _window(self.mouth.lips, grid, margin)
        places = source[lips].copy()
        blinks = []
        for eye, lid in self.lids.items():
            closed = pose.lids[eye]
            if closed > 0:
                part = _window(lid.grid, grid, margin)
                blinks.append((lid, part, source[part].copy(), closed))
        # The second step undoes the mouth's movement. Both are smooth, so the mouth's coarse grid is enough.
        layers = self.mouth.layers(pose.mouth)
        part = _window(self.mouth.grid, grid)
        nodes = pull(head, self._mouth_nodes)
        source[part] = self.mouth.grid.enlarge(nodes + self.mouth.grid.sample(layers.skin, nodes))
        # The third step computes the sharp line between the lips for every pixel.
        upper, lower = (self.mouth.grid.sample(layer, places) for layer in (layers.upper, layers.lower))
        share = lower_share(upper[..., 2], lower[..., 2], upper[..., 3])
        is_lower = share >= 0.5
        for axis in (0, 1):
            source[lips][..., axis] = places[..., axis] + np.where(is_lower, lower[..., axis], upper[..., axis])
        if pose.gaze != (0.0, 0.0):
            for eye_window in self._eyes:
                part = _window(eye_window.grid, grid, margin)
                source[part] = eye_window.look(source[part], pose.gaze)
        area = out[grid.top : grid.top + grid.height, grid.left : grid.left + grid.width]
        area[...] = self._fine.sample(source)
        self._join_lips(area[lips], places, upper, lower, share)
        for lid, part, still, closed in blinks:
            lid.paint(area[part], still, closed)
        self._paint_inside(area[lips], places, upper, lower, pose.mouth)

    def _moving(self, head: Field) -> tuple[Grid, Field]:
        """The part of the head's grid outside which nothing moves, and the part of `head` on this grid."""
        away = np.abs(head - self._nodes) > _LEAST_MOVE_PX
        rows, columns = _bounds(away[..., 0] | away[..., 1] | self._drawn) or (slice(0, 0), slice(0, 0))
        return self._head.grid.part(head, rows, columns)

    def _join_lips(self, pixels: Frames, places: Field, upper: Field, lower: Field, share: Field) -> None:
        """Blend the colours of both lips along the line on which they meet.

        Colours are blended and not source places, because the mean of two places may be in the gap between the lips.
        """
        softness = upper[..., 3]
        band = _bounds((share > 0) & (share < 1) & (softness < _BLEND_WITHIN_PX))
        if band is None:
            return
        upper, lower, share, softness = upper[band], lower[band], share[band], softness[band]
        other = places[band] + np.where((share >= 0.5)[..., None], upper[..., :2], lower[..., :2])
        _blend(pixels[band], self._fine.sample(other), np.minimum(share, 1 - share))
        if self.mouth.parted:
            # Lips that were apart in the portrait have no dark line between them, so the line is painted.
            seam = np.exp(-(((upper[..., 2] + lower[..., 2]) / (2 * self._seam_px)) ** 2))
            seam *= np.clip(1 - (upper[..., 2] - lower[..., 2]) / 3, 0, 1) * np.clip(2.5 - softness, 0, 1)
            _blend(pixels[band], self._interior.dark, np.float32(_SEAM) * seam)

    def _paint_inside(self, pixels: Frames, places: Field, upper: Field, lower: Field, pose: MouthPose) -> None:
        """Paint the mouth's inside into the gap between the lips, with soft edges."""
        inside = np.clip((upper[..., 2] - _LIPS_MEET_PX) / _LIP_EDGE_PX, 0, 1)
        inside *= np.clip((-lower[..., 2] - _LIPS_MEET_PX) / _LIP_EDGE_PX, 0, 1)
        inside *= np.clip(2.5 - upper[..., 3], 0, 1)
        hole = _bounds(inside > 0)
        if hole is None:
            return
        jaw_px = self.mouth.jaw_drop(pose)
        colour = self._interior.paint(
            places[hole], upper[hole][..., 2], lower[hole][..., 2], jaw_px, pose.narrow, pose.tongue
        )
        _blend(pixels[hole], colour, inside[hole])


def _blend(pixels: Frames, over: NDArray[np.uint8] | Field, alpha: Field) -> None:
    """Paint `over` ((h, w, 3) or one colour) onto `pixels`, uint8 (h, w, 3), in place. alpha: (h, w), 0 to 1."""
    pixels[...] = np.rint(pixels + alpha[..., None] * (over.astype(np.float32) - pixels)).astype(np.uint8)


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """The rows and columns of the smallest rectangle around the true values of `mask` (h, w); None without any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _window(inner: Grid, outer: Grid, margin: int = 0) -> tuple[slice, slice]:
    """The rows and columns of `outer` that `inner` covers, with a margin in pixels."""
    top, left = max(inner.top - margin - outer.top, 0), max(inner.left - margin - outer.left, 0)
    bottom = min(inner.top + inner.height + margin - outer.top, outer.height)
    right = min(inner.left + inner.width + margin - outer.left, outer.width)
    return slice(top, max(top, bottom)), slice(left, max(left, right))

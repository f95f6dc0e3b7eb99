"""Movement of lips, jaw and cheeks: two smooth layers, split along the line between the lips.

One smooth field cannot open a mouth, because both lips touch in the picture and must move apart. So there are two
fields. The upper layer moves the content above the line between the lips, and the lower layer the content below it.
Beyond the corners of the mouth both layers move alike. A portrait with closed lips has one such line. A portrait with
parted lips has two, the inner edges of the lips, which the movement `close` brings together. Knows the mesh, not the
pixels. interior.py paints the gap between the lips.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field, Grid, come_from, nodes, pull, smooth_step, spline
from lipsync_server.engines.preview.mesh import CHEEKS, FACE_OVAL, LOWER_LIP, UPPER_LIP, FaceFrame, Floats

# Lengths are in face heights. Before calibration, an opening of 1 parts the lips by about this much.
FULL_GAP = 0.085
# The movement of each part when the mouth opens, as a share of the gap.
LOWER_LIP_SHARE, UPPER_LIP_SHARE, JAW_SHARE, CORNER_DROP, CORNER_IN = 0.75, 0.25, 0.6, 0.2, 0.14
_SPREAD, _NARROW = 0.028, 0.046
# The rise of the cheeks with a wide vowel, and the reach of this movement around their middle.
_CHEEK_RISE, _CHEEK_REACH = 0.011, 0.06
# The share of a lip's movement that each of its rings follows, from the outer edge to the inner one.
_LOWER_RINGS, _UPPER_RINGS = (0.86, 0.92, 0.97, 1.0), (0.55, 0.75, 0.92, 1.0)
_PARTED, _TRIM = 0.007, 0.003
BASES = ("open", "close", "spread", "narrow", "press")
_OPEN, _CLOSE, _SPREAD_BASE, _NARROW_BASE, _PRESS = range(len(BASES))
Rings = tuple[tuple[int, ...], ...]
"""The mesh points of a lip: chains from corner to corner, from the lip's outer edge to its inner one."""
IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class MouthPose:
    """Weights of the mouth's movements.

    open: 0 to about 1. close: 1 for shut lips, more if parted lips must move further. spread, narrow, press: 0 to 1.
    tongue: 1 with its tip at the upper teeth; it moves no skin.
    """

    open: float
    close: float
    spread: float
    narrow: float
    press: float
    tongue: float = 0.0

    def weights(self) -> Field:
        """The weights in the order of this class's fields: float32 (5,)."""
        return np.array([self.open, self.close, self.spread, self.narrow, self.press], np.float32)


@dataclass(frozen=True)
class Layers:
    """Backward displacements (to the still portrait, in pixels) at the nodes of a mouth's grid.

    upper: float32 (rows, columns, 4): dx, dy, the content's distance below the upper lip's edge in pixels, and the
    softness of the blend between the layers in pixels. lower: float32 (rows, columns, 3): dx, dy, distance below the
    lower lip's edge. skin: float32 (rows, columns, 2): both layers blended, valid from a few nodes beside the line
    between the lips on.
    """

    upper: Field
    lower: Field
    skin: Field


def lower_share(below_upper: Field, below_lower: Field, softness: Field) -> Field:
    """The weight of the lower layer at each pixel, 0 to 1, of the shape of the arguments.

    below_upper, below_lower: distance below the lip's edge in pixels, in the upper and the lower layer. A pixel belongs
    to the layer in which it lies further on that layer's own side: 0.5 + (below_upper + below_lower) / (2 softness).
    """
    depth = (below_upper + below_lower) / (2 * np.maximum(softness, np.float32(0.5)))
    return np.asarray(np.clip(np.float32(0.5) + depth, 0, 1), np.float32)


class LipLine:
    """The line between the lips as a curve down(across), in face heights, with the polygon's corners rounded off."""

    def __init__(self, across: Floats, down: Floats) -> None:
        order = np.maximum.accumulate(across + np.arange(len(across)) * 1e-6)
        self._at = np.linspace(order[0] - 0.05, order[-1] + 0.05, 257)
        line = np.interp(self._at, order, down)
        # The points are about 0.03 apart. Rounding by a third of this distance removes the corners, not the shape.
        sigma = 0.008 / (self._at[1] - self._at[0])
        self._line = cv2.GaussianBlur(line[None], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[0]

    def __call__(self, across: Floats) -> Floats:
        """across: (...) in face heights -> down, the same shape, float64."""
        return np.asarray(np.interp(across, self._at, self._line))


class Mouth:
    """The mouth of one portrait. The constructor computes all fields that do not depend on the pose.

    points: float32 (478, 3), landmarks in pixels. stride: pixels between two nodes. picture_size: (height, width).
    """

    def __init__(self, points: Points, frame: FaceFrame, stride: int, picture_size: tuple[int, int]) -> None:
        self.frame = frame
        local = frame.local(points[:, :2].astype(np.float64))
        self._local = local
        upper, lower = (local[list(rings[3])] for rings in (UPPER_LIP, LOWER_LIP))
        gaps = np.maximum(lower[:, 1] - upper[:, 1], 0)
        self.gap = float(gaps[3:8].mean())
        self.parted = self.gap > _PARTED
        # The mesh often counts a thin rim of teeth as lip, and interpolation reads a pixel beyond a lip's edge. So the
        # lip's edge is moved outwards by `rim`, and the lips must close further by the same length.
        rim = max(_TRIM, 1.2 / frame.height) if self.parted else 0.0
        trim = rim * np.clip(gaps / max(self.gap, 1e-6), 0, 1)
        # Shut lips overlap a little. Otherwise rounding to pixels would leave holes between them.
        overlap = max(0.004, 0.8 / frame.height) if self.parted else 0.0
        self._gaps = gaps + 2 * trim + overlap * (trim > 0)
        # With an opening below `slack`, in face heights, the lips stay shut.
        self.slack = 2 * rim + overlap
        middle = (upper + lower) / 2
        corners = local[[UPPER_LIP[0][0], UPPER_LIP[0][-1]]]
        self.centre = float(corners[:, 0].mean())
        self.half_width = float(np.ptp(corners[:, 0])) / 2
        self._inner = float(min(-local[78, 0] + self.centre, local[308, 0] - self.centre))

        def line(chain: Floats) -> LipLine:
            ends = np.vstack([corners[:1], chain, corners[1:]])
            return LipLine(ends[:, 0], ends[:, 1])

        self.contact = line(middle)
        self.upper_line = line(upper - np.column_stack([0 * trim, trim])) if self.parted else self.contact
        self.lower_line = line(lower + np.column_stack([0 * trim, trim])) if self.parted else self.contact
        self.grid = self._grid(stride, picture_size)
        places = self.grid.places().astype(np.float64)
        at = frame.local(places)
        self._upper = self._layer(at, UPPER_LIP, LOWER_LIP)
        self._lower = self._layer(at, LOWER_LIP, UPPER_LIP)
        self._below_upper = ((at[..., 1] - self.upper_line(at[..., 0])) * frame.height).astype(np.float32)
        self._below_lower = ((at[..., 1] - self.lower_line(at[..., 0])) * frame.height).astype(np.float32)
        beyond = np.maximum(np.abs(at[..., 0] - self.centre) - self._inner, 0)
        self.lips = self._lip_window(picture_size)
        self._softness = (0.8 + beyond * 0.6 * frame.height).astype(np.float32)

    def _grid(self, stride: int, picture_size: tuple[int, int]) -> Grid:
        """The grid around the lower face, cut at the picture's border. picture_size: (height, width)."""
        chin = float(self._local[152, 1])
        low, high = np.array([self.centre - 0.52, -0.2]), np.array([self.centre + 0.52, chin + 0.26])
        return self.frame.rectangle(low, high, picture_size, stride)

    def _lip_window(self, picture_size: tuple[int, int]) -> Grid:
        """The grid, one node a pixel, over the rectangle in which the line between the lips can lie."""
        lips = self._local[[i for rings in (UPPER_LIP, LOWER_LIP) for ring in rings for i in ring]]
        margin = np.array([0.045, 0.035])
        low, high = lips.min(axis=0) - margin, lips.max(axis=0) + margin
        high[1] += FULL_GAP * 1.3
        return self.frame.rectangle(low, high, picture_size, stride=1)

    def _layer(self, at: Floats, own: Rings, other: Rings) -> Field:
        """Forward fields of one layer, float32 (bases, rows, columns, 2) in pixels: splines through the mesh points.

        at: the nodes of the grid, float64 (rows, columns, 2) in face heights. own, other: the rings of the layer's lip
        and of the other lip.
        """
        is_upper = own is UPPER_LIP
        moves = self._lip_moves(own, is_upper)
        jaw_ids, fixed_ids = self._skin_beside({index for ring in (*own, *other) for index in ring}, is_upper)
        drop = self._jaw_share()[jaw_ids]
        moves[jaw_ids, _OPEN, 1] = FULL_GAP * JAW_SHARE * drop
        moves[jaw_ids, _CLOSE, 1] = -0.3 * self.gap * drop
        moves[jaw_ids, _PRESS, 1] = -0.008 * drop
        held = np.concatenate([np.unique([i for ring in own for i in ring]), jaw_ids, fixed_ids])
        field = self._through(held, moves, at)
        field[..., _SPREAD_BASE, 1] -= _CHEEK_RISE * self._cheeks(at)
        pixels = self.frame.vectors(field.astype(np.float64)) * self._fade(at)[..., None, None]
        return np.ascontiguousarray(np.moveaxis(pixels, 2, 0), np.float32)

    def _lip_moves(self, own: Rings, is_upper: bool) -> Floats:
        """The movement of each mesh point of one lip in each base: (478, bases, 2) in face heights, else 0."""
        sign = -1.0 if is_upper else 1.0
        rings = _UPPER_RINGS if is_upper else _LOWER_RINGS
        share = UPPER_LIP_SHARE if is_upper else LOWER_LIP_SHARE
        moves = np.zeros((478, len(BASES), 2))
        thickness = np.abs(self._local[list(own[0]), 1] - self._local[list(own[3]), 1])
        for ring, part in zip(own, rings, strict=True):
            ids = list(ring)
            chain = self._local[ids]
            across = np.clip(2 * (chain[:, 0] - chain[0, 0]) / max(np.ptp(chain[:, 0]), 1e-6) - 1, -1, 1)
            arch = (1 - across**2) ** 0.75
            outward = rings[-1] - part
            moves[ids, _OPEN, 0] = -CORNER_IN * FULL_GAP * across
            moves[ids, _OPEN, 1] = FULL_GAP * (sign * share * arch * part + CORNER_DROP * (1 - arch))
            moves[ids, _CLOSE, 1] = -sign * (0.3 if is_upper else 0.7) * self._gaps * part
            moves[ids, _SPREAD_BASE, 0] = _SPREAD * across
            moves[ids, _SPREAD_BASE, 1] = -0.006 * across**2 - sign * 0.25 * outward * thickness
            moves[ids, _NARROW_BASE, 0] = -_NARROW * across
            moves[ids, _NARROW_BASE, 1] = sign * 0.5 * outward * thickness
            moves[ids, _PRESS, 1] = -sign * (0.7 if is_upper else 2.0) * outward * thickness
        return moves

    def _skin_beside(self, lips: set[int], is_upper: bool) -> tuple[IntArray, IntArray]:
        """Mesh points beyond the lips: those that follow the jaw, and those that stay."""
        local = self._local
        away = np.abs(local[:, 0] - self.centre)
        skin = np.array([i for i in range(468) if i not in lips])
        lip_bottom, nose = float(local[17, 1]), float(local[2, 1])
        in_jaw = (local[skin, 1] > lip_bottom + 0.045) | (
            (away[skin] > self.half_width + 0.12) & (local[skin, 1] > -0.05)
        )
        fixed = local[skin, 1] < nose - 0.005
        if is_upper:
            in_jaw &= away[skin] > self.half_width + 0.05
        else:
            fixed &= (away[skin] > self.half_width) | (local[skin, 1] < nose - 0.05)
        return skin[in_jaw & ~fixed], skin[fixed]

    def _jaw_share(self) -> Floats:
        """The share of the jaw's movement that each mesh point follows, (478,): less towards the ears and the lips."""
        away = np.abs(self._local[:, 0] - self.centre)
        return np.asarray(np.clip(1 - (away / 0.46) ** 2, 0, None) * smooth_step(self._local[:, 1], -0.02, 0.12))

    def _through(self, held: IntArray, moves: Floats, at: Floats) -> Field:
        """The smooth field (rows, columns, bases, 2) with these movements at the mesh points `held`, and 0 far away."""
        oval = self._local[list(FACE_OVAL)]
        middle = oval.mean(axis=0)
        far = np.concatenate([middle + grow * (oval - middle) for grow in (1.42, 1.8)])
        centres = np.concatenate([self._local[held], far])
        values = np.concatenate([moves[held], np.zeros((len(far), len(BASES), 2))]).reshape(len(centres), -1)
        # The further the head is turned, the less exactly the field follows its points.
        smoothing = 1e-5 + 4e-3 * max(0.0, abs(self.frame.yaw) - 0.35)
        return spline(centres, values, at.reshape(-1, 2), smoothing).reshape(*at.shape[:2], len(BASES), 2)

    def _cheeks(self, at: Floats) -> Floats:
        """The share of the cheeks' rise at each node, 1 at the middle of a cheek."""
        squared = ((at[..., None, :] - self._local[list(CHEEKS)]) ** 2).sum(axis=-1)
        return np.asarray(np.exp(-squared / (2 * _CHEEK_REACH**2)).max(axis=-1))

    def _fade(self, at: Floats) -> Floats:
        """1 around the mouth, 0 at the border of the grid, so that the moved pixels meet the still picture."""
        chin = float(self._local[152, 1])
        window = smooth_step(0.52 - np.abs(at[..., 0] - self.centre), 0.0, 0.1) * smooth_step(at[..., 1], -0.2, -0.1)
        return np.asarray(window * (1 - smooth_step(at[..., 1], chin + 0.14, chin + 0.25)))

    def layers(self, pose: MouthPose) -> "Layers":
        """The backward displacements of `pose` on `grid`."""
        weights = pose.weights()
        parts = []
        for bases, below in ((self._upper, self._below_upper), (self._lower, self._below_lower)):
            back = come_from(np.tensordot(weights, bases, axes=1), self.grid.stride, 9)
            parts.append((back, self._pull(below, back)))
        (upper, below_upper), (lower, below_lower) = parts
        softness = self._pull(self._softness, upper)
        share = lower_share(below_upper, below_lower, softness)[..., None]
        return Layers(
            upper=np.dstack([upper, below_upper, softness]),
            lower=np.dstack([lower, below_lower]),
            skin=np.ascontiguousarray(upper + share * (lower - upper)),
        )

    def _pull(self, values: Field, back: Field) -> Field:
        """`values` on the grid after the backward displacement `back`, which is in pixels."""
        return pull(values, nodes(*values.shape[:2]) + back * np.float32(1 / self.grid.stride))

    def jaw_drop(self, pose: MouthPose) -> float:
        """The jaw's distance below its place in the shut mouth, in pixels."""
        return FULL_GAP * JAW_SHARE * pose.open * self.frame.height

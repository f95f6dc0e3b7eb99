"""What shows between open lips: a dark cavity, upper and lower teeth, a hint of tongue, in the portrait's own light.

Upper teeth stand still with the skull, lower teeth and tongue ride on the jaw. A portrait with parted lips keeps its
own teeth where they show. Painted once per portrait as small pictures; every frame only samples and shades them. Knows
nothing of how lips move.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field, Grid, smooth_step
from lipsync_server.engines.preview.mesh import CHEEKS, FACE_OVAL, LOWER_LIP, UPPER_LIP
from lipsync_server.engines.preview.mouth import Mouth

# Tooth edges across the face from the middle outwards, in face heights (a central incisor is about 8.5 mm of 185).
_UPPER_EDGES = np.array([0.0, 0.045, 0.079, 0.109, 0.132, 0.152])
_LOWER_EDGES = np.array([0.0, 0.029, 0.06, 0.091, 0.116, 0.138])
_ENAMEL = np.array([1.0, 0.965, 0.89])
_GREY = np.array([0.299, 0.587, 0.114])


class Interior:
    """Cavity, teeth and tongue of one portrait's mouth."""

    def __init__(self, picture: Frames, points: Points, mouth: Mouth) -> None:
        self._mouth = mouth
        frame = mouth.frame
        self._light = _Light(picture, points)
        reach = np.array([[u, v] for u in (-1, 1) for v in (-0.09, 0.13)], np.float64)
        reach[:, 0] *= mouth.half_width + 0.03
        reach[:, 0] += mouth.centre
        corners = frame.origin + frame.height * (reach[:, :1] * frame.right + reach[:, 1:] * frame.down)
        low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
        self.grid = Grid(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]), 1)
        at = frame.local(self.grid.places().astype(np.float64))
        # Teeth foreshorten with the head's turn as everything across the face does.
        across = (at[..., 0] - mouth.centre) / max(0.5, float(np.cos(frame.yaw)))
        below = at[..., 1] - mouth.contact(at[..., 0])
        self._upper = self._upper_teeth(across, below)
        self._lower = self._lower_teeth_and_tongue(across, below)
        self._own = self._own_teeth(at) if mouth.parted else None

    def paint(
        self, x: Field, y: Field, below_upper: Field, below_lower: Field, jaw_px: float
    ) -> tuple[Field, Field | None]:
        """Colours at places of the still portrait.

        x, y: (h, w) pixel coordinates with the head's movement undone. below_upper, below_lower: pixels below the
        upper and (negative) above the lower lip's edge. Returns colours (h, w, 3), 0 to 255, and how much of the
        portrait's own inside stays (h, w), or None when its lips were shut.
        """
        height = self._mouth.frame.height
        down = self._mouth.frame.down
        depth = np.minimum(below_upper, -below_lower) * np.float32(1 / (0.03 * height))
        colour = self._light.cavity * (1.35 - 0.6 * np.clip(depth, 0, 1)[..., None])
        jaw_x, jaw_y = x - np.float32(jaw_px * down[0]), y - np.float32(jaw_px * down[1])
        lower = self.grid.sample(self._lower, jaw_x, jaw_y)
        colour += (lower[..., :3] - colour) * lower[..., 3:]
        upper = self.grid.sample(self._upper, x, y)
        colour += (upper[..., :3] - colour) * upper[..., 3:]
        # The upper lip throws a soft shadow, the lower lip a smaller one.
        shade = 0.5 + 0.5 * np.clip(below_upper * np.float32(1 / (0.022 * height)), 0, 1)
        shade *= 0.75 + 0.25 * np.clip(-below_lower * np.float32(1 / (0.012 * height)), 0, 1)
        colour *= shade[..., None]
        own = None if self._own is None else self.grid.sample(self._own, x, y)
        return colour.astype(np.float32), own

    def _upper_teeth(self, across: NDArray[np.float64], below: NDArray[np.float64]) -> Field:
        edge = 0.011 - 0.55 * across**2
        size = np.abs(across)
        notch = _notches(size, _UPPER_EDGES)
        alpha = 1 - smooth_step(below - edge + 0.005 * notch, -0.0022, 0.0022)
        # Teeth turn away from the light towards the cheeks and into the lip's shadow at the gums.
        shade = (1 - 0.85 * np.clip(size / 0.15, 0, 1) ** 1.6) * (0.62 + 0.38 * smooth_step(below, -0.06, 0.0))
        shade *= 1 - 0.2 * notch
        alpha *= 1 - smooth_step(size, 0.12, 0.155)
        return _layer(self._light.teeth, shade, alpha)

    def _lower_teeth_and_tongue(self, across: NDArray[np.float64], below: NDArray[np.float64]) -> Field:
        size = np.abs(across)
        notch = _notches(size, _LOWER_EDGES)
        edge = 0.007 + 0.5 * across**2
        teeth = smooth_step(below - edge - 0.003 * notch, -0.0022, 0.0022) * (1 - smooth_step(size, 0.09, 0.125))
        shade = 0.68 * (1 - 0.85 * np.clip(size / 0.13, 0, 1) ** 1.5) * (1 - 0.22 * notch)
        front = _layer(self._light.teeth, shade, teeth)
        round_off = (across / 0.095) ** 2 + ((below - 0.022) / 0.034) ** 2
        tongue = _layer(
            self._light.tongue, 1.1 - 0.45 * np.clip(round_off, 0, 1), 1 - smooth_step(round_off, 0.35, 1.0)
        )
        alpha = front[..., 3:] + tongue[..., 3:] * (1 - front[..., 3:])
        colour = front[..., :3] * front[..., 3:] + tongue[..., :3] * tongue[..., 3:] * (1 - front[..., 3:])
        return np.concatenate([colour / np.maximum(alpha, 1e-6), alpha], axis=-1).astype(np.float32)

    def _own_teeth(self, at: NDArray[np.float64]) -> Field:
        mouth = self._mouth
        inset = 0.004
        upper = at[..., 1] - mouth.upper_line(at[..., 0])
        lower = mouth.lower_line(at[..., 0]) - at[..., 1]
        # Only the lower edge needs care: above it the upper lip always covers the portrait's own lip.
        return np.asarray(smooth_step(lower, inset / 2, 2 * inset) * smooth_step(upper, -inset, 0.0), np.float32)


class _Light:
    """The portrait's light: what colour teeth, tongue and cavity have in it. RGB, 0 to 255."""

    def __init__(self, picture: Frames, points: Points) -> None:
        face = np.zeros(picture.shape[:2], np.uint8)
        cv2.fillPoly(face, [np.round(points[list(FACE_OVAL), :2]).astype(np.int32)], 1)
        skin = picture[face > 0].astype(np.float64)
        lips = np.zeros_like(face)
        for rings in (UPPER_LIP, LOWER_LIP):
            ring = np.concatenate([points[list(rings[0]), :2], points[list(rings[3]), :2][::-1]])
            cv2.fillPoly(lips, [np.round(ring).astype(np.int32)], 1)
        lip = picture[lips > 0].astype(np.float64)
        lip_colour = np.median(lip, axis=0) if len(lip) else np.full(3, 90.0)
        bright = float(np.percentile(skin @ _GREY, 88)) if len(skin) else 160.0
        around = [picture[int(np.clip(y, 0, picture.shape[0] - 1)), int(np.clip(x, 0, picture.shape[1] - 1))]
                  for x, y in points[list(CHEEKS), :2]]  # fmt: skip
        cheek = float(np.mean(np.asarray(around, np.float64) @ _GREY))
        # Dark skin in bright light still has bright teeth; a dim picture has dim ones.
        level = min(215.0, 0.5 * bright + 0.28 * cheek + 20)
        tint = skin.mean(axis=0) / max(float(skin.mean(axis=0) @ _GREY), 1.0) if len(skin) else np.ones(3)
        warmth = min(1.0, float(np.ptp(tint)) / 0.5)
        enamel = 1 + (_ENAMEL - 1) * warmth
        enamel = enamel * (0.8 + 0.2 * tint)
        self.teeth = level * enamel / float(enamel @ _GREY)
        self.tongue = 0.5 * lip_colour
        self.cavity = (0.17 * lip_colour + 0.02 * level).astype(np.float32)


def _notches(size: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 on the line between two teeth, 0 on a tooth."""
    nearest = np.min(np.abs(size[..., None] - edges), axis=-1)
    return np.asarray(np.exp(-((nearest / 0.0032) ** 2)))


def _layer(colour: NDArray[np.float64], shade: NDArray[np.float64], alpha: NDArray[np.float64]) -> Field:
    return np.concatenate([shade[..., None] * colour, alpha[..., None]], axis=-1).astype(np.float32)

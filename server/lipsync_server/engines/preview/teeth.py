"""The light and the style of one portrait for its mouth: colours of teeth, tongue and cavity; sharpness and wear.

Teeth that look the same in every mouth look like dentures. If the portrait shows teeth, their colour is used. Otherwise
the colour comes from the light on the face and the whites of the eyes. A soft painting gets soft teeth, and a lined
face darker, less even ones. Knows no shapes, which interior.py draws.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field
from lipsync_server.engines.preview.mesh import (
    CHEEKS,
    FACE_OVAL,
    LOWER_LIDS,
    LOWER_LIP,
    UPPER_LIDS,
    UPPER_LIP,
    FaceFrame,
    Floats,
)

_ENAMEL = np.array([1.0, 0.965, 0.89])
_TONGUE_TINT = np.array([1.1, 0.86, 0.88])
_GUMS = np.array([1.5, 0.85, 0.8])
_GREY = np.array([0.299, 0.587, 0.114])
# The colour of a worn tooth, divided by the colour of a young one: darker and yellower.
_WORN = np.array([0.93, 0.88, 0.8])
# A colour is measured from at least this many pixels.
_LEAST_PIXELS = 12
# The ratio of details of 1 pixel to those of 2 in a sharp photograph.
_SHARP = 0.85
# The depth of lines on cheeks, as a share of their brightness.
_SMOOTH, _LINED = 0.028, 0.055


class Light:
    """The portrait's light, and the colours of teeth, tongue and cavity in it. RGB, 0 to 255.

    inside: uint8 (n, 3), the pixels between the lips of a portrait whose lips are parted, or None.
    """

    def __init__(self, picture: Frames, points: Points, inside: NDArray[np.uint8] | None = None) -> None:
        skin = _within(picture, [points[list(FACE_OVAL), :2]])
        lip = _within(picture, [np.concatenate([points[list(rings[0]), :2], points[list(rings[3]), :2][::-1]])
                                for rings in (UPPER_LIP, LOWER_LIP)])  # fmt: skip
        lip_colour = np.median(lip, axis=0) if len(lip) else np.full(3, 90.0)
        bright = float(np.percentile(skin @ _GREY, 88)) if len(skin) else 160.0
        around = [picture[int(np.clip(y, 0, picture.shape[0] - 1)), int(np.clip(x, 0, picture.shape[1] - 1))]
                  for x, y in points[list(CHEEKS), :2]]  # fmt: skip
        cheek = float(np.mean(np.asarray(around, np.float64) @ _GREY))
        # The brightness of teeth follows the light and not the skin, so teeth beside dark skin are bright.
        level = min(222.0, 0.55 * bright + 0.3 * cheek + 22)
        whites = _within(picture, [points[[*UPPER_LIDS[eye], *LOWER_LIDS[eye][::-1]], :2] for eye in (0, 1)])
        if len(whites) >= _LEAST_PIXELS:
            white = float(np.percentile(whites @ _GREY, 85))
            level = 0.5 * (level + float(np.clip(1.05 * white, 0.6 * level, level)))
        # The face's highlights show the colour of the light: yellowish in a yellow painting, grey in a grey one.
        light = skin @ _GREY if len(skin) else np.zeros(0)
        shine = skin[light >= np.percentile(light, 94)].mean(axis=0) if len(skin) else np.full(3, 200.0)
        shine /= max(float(shine @ _GREY), 1.0)
        warmth = min(1.0, float(np.ptp(skin.mean(axis=0))) / 60) if len(skin) else 0.0
        enamel = (1 + (_ENAMEL - 1) * warmth) * (0.3 + 0.7 * shine)
        self.teeth = level * enamel / float(enamel @ _GREY)
        # Pale lips have a red tongue all the same, but not in a grey picture.
        self.tongue = 0.68 * lip_colour * (1 + warmth * (_TONGUE_TINT - 1))
        self.cavity = (0.2 * lip_colour * (1 + warmth * (_GUMS - 1)) + 0.02 * level).astype(np.float32)
        # Whether the parted lips show teeth (bright) or a dark hole.
        self.shows_teeth = False
        self.from_picture = False
        if inside is not None and len(inside) > _LEAST_PIXELS:
            seen = inside.astype(np.float64)
            self.shows_teeth = float(np.percentile(seen @ _GREY, 70)) > 0.55 * cheek
            self._use_own(seen, lip_colour, cheek)

    def _use_own(self, inside: Floats, lip_colour: Floats, cheek: float) -> None:
        """Use the colour of the teeth that the portrait shows: pixels that are bright, and less red than the lips."""
        light = np.maximum(inside @ _GREY, 1.0)
        redness = (inside[:, 0] - inside[:, 1]) / light
        lips = float((lip_colour[0] - lip_colour[1]) / max(float(lip_colour @ _GREY), 1.0))
        own = inside[(light > 0.5 * cheek) & (redness < 0.6 * lips)]
        if len(own) >= max(_LEAST_PIXELS, 0.1 * len(inside)):
            bright = own[own @ _GREY >= np.median(own @ _GREY)]
            self.teeth = bright.mean(axis=0)
            self.from_picture = True


@dataclass(frozen=True)
class Style:
    """The style of the portrait.

    blur_px: softness of its edges beyond a sharp photograph's. wear: 0 for a smooth face to 1 for a lined one. seed: of
    the random teeth, made from the picture, so that a portrait always has the same teeth.
    """

    blur_px: float
    wear: float
    seed: int

    @classmethod
    def of(cls, picture: Frames, points: Points, frame: FaceFrame) -> "Style":
        """Measure the style of a portrait. picture: uint8 RGB (H, W, 3). points: float32 (478, 3)."""
        left, top = np.maximum(points[list(FACE_OVAL), :2].min(axis=0), 0).astype(int)
        right, bottom = points[list(FACE_OVAL), :2].max(axis=0).astype(int) + 1
        face = picture[top:bottom, left:right]
        if min(face.shape[:2]) < 8:
            return cls(0.0, 0.0, 0)
        grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
        fine = grey - cv2.GaussianBlur(grey, (0, 0), 1.0)
        middle = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 2.5)
        # The strongest details of each size are edges.
        ratio = float(np.percentile(np.abs(fine), 95) / max(float(np.percentile(np.abs(middle), 95)), 0.5))
        blur_px = float(np.clip(1.6 * (_SHARP - ratio) / _SHARP, 0.0, 1.6))
        lines = cv2.GaussianBlur(grey, (0, 0), max(0.6, 0.003 * frame.height))
        lines = lines - cv2.GaussianBlur(grey, (0, 0), max(1.5, 0.015 * frame.height))
        height, width = grey.shape
        cheeks = np.abs(lines[height // 2 : height * 3 // 4, width // 8 : width * 7 // 8])
        depth = float(np.median(cheeks)) / max(float(np.median(grey)), 20.0)
        wear = float(np.clip((depth - _SMOOTH) / (_LINED - _SMOOTH), 0, 1))
        return cls(blur_px, wear, int(face[::3, ::3].astype(np.int64).sum()))

    @property
    def contrast(self) -> float:
        """The contrast of the lines between teeth, 0 to 1."""
        return 1.0 - 0.3 * self.blur_px

    def worn(self, colour: Floats) -> Floats:
        """The colour of this face's teeth, RGB (3,). colour: of young teeth."""
        return np.asarray(colour * (1 + self.wear * (_WORN - 1)), np.float64)

    def each_tooth(self, across: Floats, edges: Floats) -> tuple[Floats, Floats]:
        """The length and brightness of each tooth: added length in face heights, and a factor near 1; both (h, w).

        across: (h, w) in face heights from the middle of the mouth. edges: (n,), the places where two teeth meet.
        """
        rng = np.random.default_rng(self.seed)
        tooth = np.searchsorted(edges, np.abs(across)) + len(edges) * (across < 0)
        n = 2 * len(edges) + 1
        longer = rng.normal(0, 0.0008 + 0.0016 * self.wear, n)
        lighter = 1 + np.clip(rng.normal(0, 0.025 + 0.05 * self.wear, n), -0.15, 0.1)
        return longer[tooth], lighter[tooth]

    def soften(self, layer: Field) -> Field:
        """`layer`, float32 (h, w, 4), with its edges as soft as the portrait's."""
        if self.blur_px < 0.3:
            return layer
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), self.blur_px), np.float32)


def _within(picture: Frames, polygons: list[NDArray[np.float32]]) -> Floats:
    """The pixels of `picture` inside `polygons`, float64 (n, 3)."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], 1)
    return picture[mask > 0].astype(np.float64)

"""The square around the face, which the model animates, and the warnings for pictures that will look poor.

FlashHead was trained on square, upright portraits in which the head takes half the width. The public reference clamps
its square at the picture's borders and stretches the rest back to a square; ours is shifted inside, and continued by
its own edge pixels where the picture is too small for it. Boxes and points are pixels of the picture, (0, 0) its upper
left corner. Knows geometry and Pillow; no model and no detector.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from lipsync_server.engines.base import Box, Frames
from lipsync_server.engines.landmarks import Face
from lipsync_server.errors import InvalidImage

SIDE = 512
"""Width and height of the model's pictures."""
# The face detector of the model's training draws its boxes this much wider than our face mesh.
_DETECTOR_WIDTH = 1.1
# The square's centre is this share of its side above the face's centre, which leaves space for hair.
_RAISED = 0.05
# Below this angle a head is upright enough; turning the square would only soften the picture.
_UPRIGHT = math.radians(15)
_LEAST_FACE_PX, _SMALL_FACE_PX = 32.0, 80.0
_STRONG_YAW, _PROFILE_YAW = 0.6, 1.1
# A square that is shifted by less than this share of its side causes no warning.
_UNNOTICED_SHIFT = 0.04


@dataclass(frozen=True)
class FaceCrop:
    """A square of the picture: its centre, its side in pixels, and by how much it is turned clockwise (radians).

    shifted: the distance in pixels by which the square was moved to lie inside the picture. beyond: the length in
    pixels by which it still reaches out of the picture.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0
    shifted: float = 0.0
    beyond: float = 0.0

    @property
    def box(self) -> Box:
        """The square's bounding box: left, top, right, bottom."""
        reach = self.side / 2 * (abs(math.cos(self.angle)) + abs(math.sin(self.angle)))
        return self.x - reach, self.y - reach, self.x + reach, self.y + reach

    def cut(self, picture: Frames, size: int = SIDE) -> Frames:
        """The square as uint8 RGB (size, size, 3). Beyond the picture its edge pixels are repeated.

        picture: uint8 RGB (H, W, 3).
        """
        left, top, right, bottom = self.box
        height, width = picture.shape[:2]
        margin = math.ceil(max(0.0, -left, -top, right - width, bottom - height)) + (1 if self.angle else 0)
        padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge") if margin else picture
        if not self.angle:
            box = (left + margin, top + margin, right + margin, bottom + margin)
            image = Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC, box=box)
            return np.asarray(image)
        # Turned upright at its own scale first, so that the resizing below averages as it does for upright squares.
        own = max(2, round(self.side))
        step = self.side / own
        turn = step * np.array(
            [[math.cos(self.angle), -math.sin(self.angle)], [math.sin(self.angle), math.cos(self.angle)]]
        )
        shift = np.array([self.x + margin - 0.5, self.y + margin - 0.5]) - turn @ np.full(2, (own - 1) / 2)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        upright = cv2.warpAffine(
            padded, np.column_stack([turn, shift]), (own, own), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(Image.fromarray(upright).resize((size, size), Image.Resampling.BICUBIC))


def crop_for(face: Face, picture: Frames, scale: float = 2.0) -> FaceCrop:
    """The square for `face`: `scale` times the width of the face, upright with the head, moved inside the picture.

    picture: uint8 RGB (H, W, 3).
    """
    left, top, right, bottom = face.box
    angle = face.roll if abs(face.roll) > _UPRIGHT else 0.0
    width = (right - left) * _DETECTOR_WIDTH
    if angle:
        # The box of a tilted face is wider than the face, so the width is that of the mesh, turned upright.
        turned = face.points[:, :2] @ np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        width = float(np.ptp(turned[:, 0])) * _DETECTOR_WIDTH
    centre = (left + right) / 2 + 0.5, (top + bottom) / 2 + 0.5
    return place_crop(centre, width, (picture.shape[0], picture.shape[1]), scale, angle)


def place_crop(
    centre: tuple[float, float], face_width: float, picture: tuple[int, int], scale: float = 2.0, angle: float = 0.0
) -> FaceCrop:
    """The square of a face at `centre` that is `face_width` wide, in a picture of (height, width).

    scale: side of the square over the width of the face. angle: of the head, clockwise, in radians. The square is moved
    inside the picture. Along an axis on which the picture is shorter than the square, it is centred on the picture. An
    upright square covers whole pixels.
    """
    side = float(max(2, round(scale * face_width)))
    x = centre[0] + math.sin(angle) * _RAISED * side
    y = centre[1] - math.cos(angle) * _RAISED * side
    reach = side / 2 * (abs(math.cos(angle)) + abs(math.sin(angle)))
    inside_x, inside_y = _inside(x, reach, picture[1]), _inside(y, reach, picture[0])
    if not angle:
        # Whole pixels, so that the square is cut and set back without resampling.
        inside_x, inside_y = (round(at - side / 2) + side / 2 for at in (inside_x, inside_y))
    height, width = picture
    beyond = max(0.0, reach - inside_x, reach - inside_y, inside_x + reach - width, inside_y + reach - height)
    shifted = math.hypot(inside_x - x, inside_y - y)
    return FaceCrop(inside_x, inside_y, side, angle, shifted=shifted, beyond=beyond)


def warnings_for(face: Face, crop: FaceCrop) -> list[str]:
    """Warnings for the caller before work starts. Raises InvalidImage for a face that FlashHead cannot animate."""
    left, _, right, _ = face.box
    width = right - left
    if width < _LEAST_FACE_PX:
        raise InvalidImage(
            f"The face is {width:.0f} pixels wide, and FlashHead needs at least {_LEAST_FACE_PX:.0f}. Use a larger "
            "picture, or engine infinitetalk, which moves the whole picture.",
            field="image",
        )
    if abs(face.yaw) > _PROFILE_YAW:
        raise InvalidImage(
            "The face is seen from the side, and FlashHead has learned faces that look towards the camera. Use another "
            "picture, or engine infinitetalk.",
            field="image",
        )
    warnings = []
    if width < _SMALL_FACE_PX:
        warnings.append(f"The face is only {width:.0f} pixels wide; it will look soft. A larger picture works better.")
    if abs(face.yaw) > _STRONG_YAW:
        warnings.append(
            "The face is turned far to the side; lips may look wrong. A picture that looks at the camera works better."
        )
    if crop.beyond > _UNNOTICED_SHIFT * crop.side:
        warnings.append(
            "The square that FlashHead needs round the face reaches beyond the picture; its edge pixels were repeated "
            "there. A picture with more room round the head works better."
        )
    elif crop.shifted > _UNNOTICED_SHIFT * crop.side:
        warnings.append(
            "The face is close to the border of the picture, so the head is not in the middle of the square that "
            "FlashHead sees. A picture with more room round the head works better."
        )
    return warnings


def reference_crop(box: Box, picture: tuple[int, int], ratio: float = 2.0) -> tuple[int, int, int, int]:
    """The public reference's crop (left, top, right, bottom) of a face box in a picture of (height, width).

    The reference cuts the crop off at the picture's borders, so it is not always square. Tests compare with it.
    """
    height, width = picture
    x1, y1, x2, y2 = box
    side = ratio * (x2 - x1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return (
        int(max(0.0, x - side / 2)),
        int(max(0.0, y - side * (0.5 + _RAISED))),
        int(min(float(width), x + side / 2)),
        int(min(float(height), y + side * (0.5 - _RAISED))),
    )


def reference_cut(picture: Frames, crop: tuple[int, int, int, int], size: int = SIDE) -> Frames:
    """The reference's crop, stretched to uint8 RGB (size, size, 3). picture: uint8 RGB (H, W, 3)."""
    return np.asarray(Image.fromarray(picture).crop(crop).resize((size, size), Image.Resampling.BICUBIC))


def _inside(at: float, reach: float, length: int) -> float:
    """Move `at` so that at - reach .. at + reach lies in 0 .. length; centre it if `length` is too short."""
    if 2 * reach >= length:
        return length / 2
    return min(max(at, reach), length - reach)

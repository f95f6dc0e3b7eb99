"""The cut of the face out of the picture, and its alignment for the 3-D face network.

Works from 68 landmarks, float32 (68, 2): x right, y down, in pixels. Only the eyes, the nose tip and the corners of the
mouth are used. Pictures are uint8 RGB (H, W, 3). Knows numpy, Pillow and OpenCV; no networks.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lipsync_server.engines.sadtalker.arrays import Picture, Points
from lipsync_server.errors import InvalidImage

Preprocess = Literal["crop", "extcrop", "resize", "full", "extfull"]
IntBox = tuple[int, int, int, int]  # left, top, right, bottom
ALIGNED = 224
_FACE_SCALE = 102.0
_MOST_PIXELS = 64_000_000

# Eyes (image left, image right), nose tip and mouth corners of the 3-D face model: x, y up, z towards the camera.
STANDARD_POINTS: NDArray[np.float64] = np.array([
    [-0.3114865720272064, 0.29036077857017517, 0.13377952575683594],
    [0.30979886651039124, 0.289720356464386, 0.1317952573299408],
    [0.003253498813137412, -0.04617932438850403, 0.5524424314498901],
    [-0.25216928124427795, -0.3813391625881195, 0.22405731678009033],
    [0.24846619367599487, -0.38128235936164856, 0.22235769033432007],
])  # fmt: skip


@dataclass(frozen=True)
class Crop:
    """The cut of a picture. All boxes are in pixels of the picture resized to `resized` (w, h).

    outer: the box around the head. inner: the quad within the outer box, in its coordinates. size: width and height
    that decide the aspect of a cropped video.
    """

    resized: tuple[int, int]
    outer: IntBox
    inner: IntBox
    size: tuple[int, int]
    quad: tuple[float, float, float, float]

    @property
    def inner_in_picture(self) -> IntBox:
        """The inner box in pixels of the resized picture."""
        left, top, right, bottom = self.inner
        x, y = self.outer[:2]
        return x + left, y + top, x + right, y + bottom

    def box(self, preprocess: Preprocess) -> IntBox:
        """The box that is cut out and pasted back in this mode, in pixels of the resized picture."""
        return self.outer if preprocess.startswith("ext") else self.inner_in_picture


def find_crop(landmarks: Points, width: int, height: int, *, reference_clamp: bool = False) -> Crop:
    """The head's box in a picture of width x height pixels from its landmarks (68, 2).

    reference_clamp keeps the reference's fault: it limits the inner box by the picture's WIDTH in both directions
    and not by the outer box, which recorded sizes that were never cut (tall pictures came out stretched).
    """
    x, centre = _quad_axes(landmarks)
    y = x[::-1] * np.array([-1, 1])
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    side = float(np.hypot(*x)) * 2
    shrink = int(np.floor(side / 512 * 0.5))
    resized = (width, height)
    if shrink > 1:
        resized = (round(width / shrink), round(height / shrink))
        quad, side = quad / shrink, side / shrink
    border = max(round(side * 0.1), 3)
    outer = (
        max(int(np.floor(quad[:, 0].min())) - border, 0),
        max(int(np.floor(quad[:, 1].min())) - border, 0),
        min(int(np.ceil(quad[:, 0].max())) + border, resized[0]),
        min(int(np.ceil(quad[:, 1].max())) + border, resized[1]),
    )
    if outer[2] - outer[0] < resized[0] or outer[3] - outer[1] < resized[1]:
        quad = quad - outer[:2]
    else:
        outer = (0, 0, *resized)
    quad = quad + 0.5
    most = (resized[0], resized[0]) if reference_clamp else (outer[2] - outer[0], outer[3] - outer[1])
    inner = (
        max(min(quad[0, 0], quad[1, 0]), 0.0),
        max(min(quad[0, 1], quad[3, 1]), 0.0),
        min(max(quad[2, 0], quad[3, 0]), most[0]),
        min(max(quad[1, 1], quad[2, 1]), most[1]),
    )
    left, top, right, bottom = (float(value) for value in inner)
    box = (int(left), int(top), int(right), int(bottom))
    return Crop(resized, outer, box, (box[2] - box[0], box[3] - box[1]), (left, top, right, bottom))


def _quad_axes(landmarks: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half the quad's horizontal axis, and its centre: (2,) each, in pixels.

    The quad is a square turned with the head, as the data set FFHQ cuts faces. Half its side is twice the distance of
    the eyes or 1.8 times the distance from eyes to mouth, whichever is larger.
    """
    points = landmarks.astype(np.float32)
    left_eye, right_eye = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes, mouth = (left_eye + right_eye) * 0.5, (points[48] + points[54]) * 0.5
    across, down = right_eye - left_eye, mouth - eyes
    x = (across - np.array([-down[1], down[0]])).astype(np.float64)
    x /= np.hypot(*x)
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8)
    return x, (eyes + down * 0.1).astype(np.float64)


def cut(picture: Picture, crop: Crop, preprocess: Preprocess) -> Picture:
    """The pixels of the crop; `resize` keeps the whole picture."""
    if preprocess == "resize":
        return picture
    if picture.shape[1::-1] != crop.resized:
        picture = resize(picture, *crop.resized)
    left, top, right, bottom = crop.outer
    head = picture[top:bottom, left:right]
    if preprocess.startswith("ext"):
        return head
    left, top, right, bottom = crop.inner
    return head[top:bottom, left:right]


def resize(picture: Picture, width: int, height: int) -> Picture:
    """Resized bilinearly, as in the networks' training."""
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=cv2.INTER_LINEAR))


def landmarks_in_cut(landmarks: Points, crop: Crop, picture: tuple[int, int], box: IntBox, size: int) -> Points:
    """Move landmarks of a picture (w, h) into the size x size square that its box was resized to."""
    scale = np.array(crop.resized) / np.array(picture)
    left, top, right, bottom = box
    moved = ((landmarks + 0.5) * scale - (left, top)) * size / (right - left, bottom - top) - 0.5
    return np.asarray(moved, np.float32)


def five_points(landmarks: Points) -> NDArray[np.float64]:
    """Eyes (means of their corners), nose tip, mouth corners: (5, 2) of (68, 2)."""
    eyes = (landmarks[[36, 42]] + landmarks[[39, 45]]) / 2
    return np.concatenate([eyes, landmarks[[30, 48, 54]]]).astype(np.float64)


@dataclass(frozen=True)
class Alignment:
    """A face aligned to the 3-D model. picture: uint8 RGB (224, 224, 3), the face network's input.

    scale, x, y: the square's scaling and the face's place in it in pixels; SadTalker's coefficients 70 to 72.
    """

    picture: Picture
    scale: float
    x: float
    y: float


def align(square: Picture, landmarks: Points) -> Alignment:
    """Scale and shift a picture so that the face fits the 3-D model. landmarks: (68, 2), y down.

    square: uint8 RGB (H, W, 3). Raises as `align_points`.
    """
    points = five_points(landmarks)
    points[:, 1] = square.shape[0] - 1 - points[:, 1]
    return align_points(square, points)


def align_points(square: Picture, points: NDArray[np.float64]) -> Alignment:
    """`align` from the five points (5, 2), y up. Pixels outside the picture become black.

    The pose is fitted by least squares: with the model's points P (5, 3), solve [P 1] A = points for A (4, 2). The mean
    length of the columns of A's first three rows is the face's size, which is scaled to _FACE_SCALE; its last row is
    the face's place. Raises InvalidImage where the face is so small that the enlarged picture would have more than
    _MOST_PIXELS.
    """
    height, width = square.shape[:2]
    design = np.concatenate([STANDARD_POINTS, np.ones((5, 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, points, rcond=None)
    row_x, row_y, (x, y) = solution[:3, 0], solution[:3, 1], solution[3]
    scale = _FACE_SCALE / ((np.linalg.norm(row_x) + np.linalg.norm(row_y)) / 2)
    w, h = int(width * scale), int(height * scale)
    if w * h > _MOST_PIXELS:
        raise InvalidImage(
            f"The face is only a few of the {width} pixels that its picture is squeezed to; use preprocess full or "
            "crop, or a picture in which the face is larger.",
            field="image",
        )
    left = int(w / 2 - ALIGNED / 2 + (x - width / 2) * scale)
    top = int(h / 2 - ALIGNED / 2 + (height / 2 - y) * scale)
    resized = Image.fromarray(square).resize((w, h), Image.Resampling.BICUBIC)
    aligned = np.asarray(resized.crop((left, top, left + ALIGNED, top + ALIGNED)))
    return Alignment(aligned, float(scale), float(x), float(y))

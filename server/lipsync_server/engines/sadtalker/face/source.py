"""The source picture prepared: the square for the renderer, its 3DMM coefficients, and its place in the picture.

Knows geometry and the face network; landmarks are given, the detector is the engine's.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

from lipsync_server.engines.sadtalker.arrays import Picture, Points, Rows
from lipsync_server.engines.sadtalker.face.geometry import (
    Alignment,
    Crop,
    IntBox,
    Preprocess,
    align,
    cut,
    find_crop,
    landmarks_in_cut,
    resize,
)
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction, motion_coefficients
from lipsync_server.errors import InvalidImage

_MIN_SIDE = 32


@dataclass(frozen=True)
class Source:
    """A prepared source picture.

    square: uint8 RGB (S, S, 3). coefficients: float32 (73,). box: of the cut, in pixels of the picture. crop_size:
    (w, h) of the cut.
    """

    square: Picture
    coefficients: Rows
    box: IntBox
    crop_size: tuple[int, int]


def prepare_source(
    picture: Picture,
    landmarks: Points,
    network: FaceReconstruction,
    *,
    size: int,
    preprocess: Preprocess,
    reference_clamp: bool = False,
    shrink: Literal["area", "bilinear"] = "area",
) -> Source:
    """Cut the face at `landmarks` (68, 2) out of `picture`, uint8 RGB (H, W, 3), and compute its coefficients."""
    height, width = picture.shape[:2]
    whole = (0, 0, width, height)
    if preprocess == "resize":
        crop = Crop((width, height), whole, whole, (width, height), (0.0, 0.0, float(width), float(height)))
    else:
        crop = find_crop(landmarks, width, height, reference_clamp=reference_clamp)
    box = crop.box(preprocess)
    pixels = cut(picture, crop, preprocess)
    if min(pixels.shape[:2]) < _MIN_SIDE:
        raise InvalidImage(
            f"The face is cut to {pixels.shape[1]}x{pixels.shape[0]} pixels, too few to animate; use a picture in "
            "which the face is larger and wholly inside.",
            field="image",
        )
    square = _square(pixels, size, shrink)
    placed = landmarks_in_cut(landmarks, crop, (width, height), box, size)
    coefficients = read_coefficients(network, align(square, placed))
    scale_x, scale_y = width / crop.resized[0], height / crop.resized[1]
    left, top, right, bottom = box
    in_picture = (round(left * scale_x), round(top * scale_y), round(right * scale_x), round(bottom * scale_y))
    # The reference takes the quad's size for a cut of the outer box too, and so stretches those videos.
    crop_size = crop.size if reference_clamp else (right - left, bottom - top)
    return Source(square, coefficients, in_picture, crop_size)


@torch.inference_mode()
def read_coefficients(network: FaceReconstruction, alignment: Alignment) -> Rows:
    """Expression 64, angles 3, translation 3, crop 3 of an aligned picture: (73,)."""
    device = next(network.parameters()).device
    aligned = torch.from_numpy(alignment.picture.copy()).permute(2, 0, 1)[None].to(device).float() / 255
    motion = motion_coefficients(network(aligned))[0].cpu().numpy()
    return np.concatenate([motion, np.array([alignment.scale, alignment.x, alignment.y], np.float32)])


def _square(pixels: Picture, size: int, shrink: Literal["area", "bilinear"]) -> Picture:
    """uint8 RGB (h, w, 3) -> (size, size, 3). shrink: the method for a picture larger than the square."""
    if shrink == "area" and min(pixels.shape[:2]) > size:
        return np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return resize(pixels, size, size)

"""From the renderer's squares to the video's frames: cut to the crop's shape, or put back into the whole picture.

Pasting keeps the picture's own size and blends on the renderer's device. Knows no networks.
"""

from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipsync_server.engines.sadtalker.arrays import Picture
from lipsync_server.engines.sadtalker.face.geometry import IntBox
from lipsync_server.models.pictures import LONG_SIDE

_FEATHER = 0.12  # of the box's shorter side


class Compositor(Protocol):
    """Makes video frames from rendered squares, in two steps, so that a GPU does not wait for the second step."""

    size: tuple[int, int]  # width, height, both even

    def blend(self, squares: Tensor) -> Tensor:
        """(n, 3, S, S) in [0, 1] -> uint8 (n, h, w, 3) on the same device: the part of a frame that changes."""

    def place(self, patches: Tensor) -> Picture:
        """The result of `blend` -> (n, height, width, 3) uint8 frames."""


class CropFrames:
    """The crop alone, S wide and as high as its shape asks; narrower where it would be higher than a video may be.

    Video needs even sides: an odd last row is left out rather than the frame squeezed, so that the rest stays exact.
    """

    def __init__(self, square: int, crop_size: tuple[int, int]) -> None:
        height = max(2, crop_height(square, crop_size))
        self.scaled = (square, height)
        if height > LONG_SIDE:
            self.scaled = (max(2, square * LONG_SIDE // height // 2 * 2), LONG_SIDE)
        self.size = (self.scaled[0], self.scaled[1] // 2 * 2)

    def blend(self, squares: Tensor) -> Tensor:
        """squares (n, 3, S, S) in [0, 1] -> uint8 (n, S, S, 3) on the same device."""
        return to_bytes(squares)

    def place(self, patches: Tensor) -> Picture:
        """patches: the result of `blend`. Returns uint8 RGB (n, height, width, 3)."""
        height = self.size[1]
        return np.stack([_resize(frame, *self.scaled)[:height] for frame in patches.cpu().numpy()])


class FeatherPaste:
    """Blends the square into its box of the picture.

    It fades towards the edges of the box, where the photo is unchanged.

    An edge on the picture's own edge does not fade, because no picture continues beyond it.
    """

    def __init__(self, picture: Picture, box: IntBox, device: torch.device) -> None:
        self.picture, self.device = picture, device
        height, width = picture.shape[:2]
        self.size = (width, height)
        left, top, right, bottom = box
        self.box_size = (bottom - top, right - left)
        self.inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        inner_left, inner_top, inner_right, inner_bottom = self.inside
        # The part of the resized square that falls inside the picture.
        self.rows = slice(inner_top - top, inner_bottom - top)
        self.columns = slice(inner_left - left, inner_right - left)
        margin = max(2.0, _FEATHER * min(self.box_size))
        n_rows, n_columns = inner_bottom - inner_top, inner_right - inner_left
        across = _ramp(n_columns, margin, at_start=inner_left > 0, at_end=inner_right < width)
        down = _ramp(n_rows, margin, at_start=inner_top > 0, at_end=inner_bottom < height)
        self.alpha = (down[:, None] * across[None, :]).to(device)
        patch = picture[inner_top:inner_bottom, inner_left:inner_right]
        self.behind = torch.from_numpy(patch.copy()).to(device).permute(2, 0, 1).float()

    def blend(self, squares: Tensor) -> Tensor:
        """squares (n, 3, S, S) in [0, 1] -> uint8 (n, h, w, 3): the box of the picture with the square in it."""
        patches = F.interpolate(squares.float(), size=self.box_size, mode="bicubic", antialias=True)
        patches = (patches[:, :, self.rows, self.columns] * 255).clamp(0, 255)
        blended = torch.lerp(self.behind.expand_as(patches), patches, self.alpha)
        return blended.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def place(self, patches: Tensor) -> Picture:
        """patches: the result of `blend`. Returns uint8 RGB (n, height, width, 3)."""
        left, top, right, bottom = self.inside
        result = np.repeat(self.picture[None], len(patches), axis=0)
        result[:, top:bottom, left:right] = patches.cpu().numpy()
        return result


class PoissonPaste:
    """The original's way: gradients of the square, colours of the photo along the box (cv2.seamlessClone).

    Colours leak in from a border that moves, so the face flickers; kept for comparison.
    """

    def __init__(self, picture: Picture, box: IntBox) -> None:
        self.picture, self.box = picture, box
        self.size = (picture.shape[1], picture.shape[0])

    def blend(self, squares: Tensor) -> Tensor:
        """squares (n, 3, S, S) in [0, 1] -> uint8 (n, S, S, 3) on the same device."""
        return to_bytes(squares)

    def place(self, patches: Tensor) -> Picture:
        """patches: the result of `blend`. Returns uint8 RGB (n, height, width, 3)."""
        return np.stack([poisson_paste(self.picture, frame, self.box) for frame in patches.cpu().numpy()])


def poisson_paste(picture: Picture, square: Picture, box: IntBox) -> Picture:
    """One frame cloned into its box. A box over the picture's edge, on which the original fails, is clipped."""
    left, top, right, bottom = box
    patch = _resize(square, right - left, bottom - top)
    height, width = picture.shape[:2]
    inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    patch = np.ascontiguousarray(patch[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left])
    centre = ((inside[0] + inside[2]) // 2, (inside[1] + inside[3]) // 2)
    mask = np.full(patch.shape, 255, np.uint8)
    return np.asarray(cv2.seamlessClone(patch, picture, mask, centre, cv2.NORMAL_CLONE), np.uint8)


def to_bytes(squares: Tensor) -> Tensor:
    """(n, 3, S, S) in [0, 1] -> (n, S, S, 3) uint8, rounded half to even."""
    return (squares.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def crop_height(square: int, crop_size: tuple[int, int]) -> int:
    """Height of a video `square` wide whose crop was crop_size (w, h)."""
    width, height = crop_size
    return int(square * height / width)


def _ramp(n: int, margin: float, *, at_start: bool, at_end: bool) -> Tensor:
    """(n,) opacity: 0 at a fading end, 1 from `margin` pixels on, smooth between."""
    position = torch.arange(n, dtype=torch.float32)
    ramp = torch.ones(n)
    if at_start:
        ramp = torch.minimum(ramp, position / margin)
    if at_end:
        ramp = torch.minimum(ramp, (n - 1 - position) / margin)
    return ramp.square() * (3 - 2 * ramp)


def _resize(picture: Picture, width: int, height: int) -> Picture:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

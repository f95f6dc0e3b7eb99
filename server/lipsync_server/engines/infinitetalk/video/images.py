"""Prepares the picture for the model: person masks, and the slow camera move.

Boxes are (left, top, right, bottom) in pixels of the source picture. The public reference reads its boxes with the axes
swapped (their "x" runs down the rows), so boxes for its JSON files must be written (top, left, bottom, right);
`reference_box` converts one. Knows numpy, Pillow and torch; no model.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lipsync_server.engines.base import Box, Frames
from lipsync_server.errors import InvalidInput
from lipsync_server.models.pictures import frame_picture

# Default halves for two people: this share of the picture's height, and of each half's width, is left out at the rims.
_RIM = 0.05
# The camera move: one slow cycle of zooming in by this share and drifting sideways within the room that gives.
_ZOOM = 0.06
_CYCLE_S = 40.0


def fit_masks(masks: NDArray[np.float32], target: tuple[int, int]) -> Tensor:
    """Masks (3, H, W) of the source picture to float32 (3, height, width) of the target: nearest, cropped alike."""
    framing = frame_picture((masks.shape[1], masks.shape[2]), target)
    grown = _nearest(torch.from_numpy(masks), framing.resized)
    return grown[:, framing.top : framing.top + framing.height, framing.left : framing.left + framing.width]


def latent_masks(masks: NDArray[np.float32], target: tuple[int, int]) -> Tensor:
    """Masks (3, H, W) of the source picture at latent size: float32 0 or 1, (3, height/8, width/8).

    Raises InvalidInput when a mask has no token left (half the latent's size): the model would divide by zero.
    """
    latent = (_nearest(fit_masks(masks, target), (target[0] // 8, target[1] // 8)) > 0).float()
    tokens = _nearest(latent, (latent.shape[1] // 2, latent.shape[2] // 2))
    for name, mask in zip(("The first person's box", "The second person's box", "The background"), tokens, strict=True):
        if not bool(mask.any()):
            raise InvalidInput(
                f"{name} covers nothing of the cropped picture. Give boxes of at least 32 pixels of the finished "
                "video, inside the picture, that leave some background free.",
                field="people",
            )
    return latent


def person_masks(source: tuple[int, int], boxes: tuple[Box, Box] | None) -> NDArray[np.float32]:
    """Three masks of the source (height, width): first person, second person, background; float32 0 or 1.

    Without boxes the left and the right half, less a rim, as the reference has it.
    """
    height, width = source
    masks = np.zeros((3, height, width), np.float32)
    if boxes is None:
        half = width // 2
        rows = slice(int(height * _RIM), int(height * (1 - _RIM)))
        left, right = int(half * _RIM), int(half * (1 - _RIM))
        masks[0, rows, left:right] = 1
        masks[1, rows, half + left : half + right] = 1
    else:
        for mask, (left_x, top, right_x, bottom) in zip(masks, boxes, strict=False):
            mask[int(top) : int(bottom), int(left_x) : int(right_x)] = 1
    masks[2] = (masks[0] + masks[1]) == 0
    return masks


def silent_neighbour(source: tuple[int, int], speaker: Box) -> Box:
    """A box for "everyone else" when one of several people speaks: the wider side beside the speaker."""
    height, width = source
    left, right = max(0.0, speaker[0]), min(float(width), speaker[2])
    top, bottom = height * _RIM, height * (1 - _RIM)
    if left >= width - right:
        return width * _RIM / 2, top, left, bottom
    return right, top, width * (1 - _RIM / 2), bottom


def move_camera(picture: Frames, time_s: float, boxes: tuple[Box, Box] | None) -> tuple[Frames, tuple[Box, Box] | None]:
    """The picture in a slowly moving camera at `time_s` seconds, uint8 RGB (H, W, 3), and the boxes within it.

    One picture held still for minutes makes the model drift; its authors advise a video with a slow move instead. The
    cut-out starts as the whole picture, zooms in by a few per cent, drifts and returns, without a jump anywhere.
    """
    height, width = picture.shape[:2]
    phase = 2 * math.pi * time_s / _CYCLE_S
    scale = 1 - _ZOOM * (1 - math.cos(phase)) / 2
    cut_w, cut_h = width * scale, height * scale
    left = (width - cut_w) * (0.5 + 0.5 * math.sin(phase / 2))
    top = (height - cut_h) * 0.5
    image = Image.fromarray(picture).resize(
        (width, height), Image.Resampling.BICUBIC, box=(left, top, left + cut_w, top + cut_h)
    )
    if boxes is None:
        return np.asarray(image), None
    first, second = (
        ((b[0] - left) / scale, (b[1] - top) / scale, (b[2] - left) / scale, (b[3] - top) / scale) for b in boxes
    )
    return np.asarray(image), (_inside(first, width, height), _inside(second, width, height))


def _inside(box: Box, width: int, height: int) -> Box:
    """The part of the box that is in the picture; an empty box where no part is."""
    left, right = (min(max(0.0, x), float(width)) for x in (box[0], box[2]))
    top, bottom = (min(max(0.0, y), float(height)) for y in (box[1], box[3]))
    return left, top, right, bottom


def _nearest(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest resize of (n, H, W): index floor(i * source / target)."""
    return torch.nn.functional.interpolate(masks[None], size=size, mode="nearest")[0]


def condition_mask(n_latents: int, height: int, width: int) -> Tensor:
    """The four mask channels of the conditioning, float32 (4, T, h, w): 1 in latent frame 0, which is known, else 0."""
    mask = torch.zeros(4, n_latents, height, width)
    mask[:, 0] = 1
    return mask

"""Convert pictures and frames to a model's input and back: resize, crop, scale to [-1, 1], and back to bytes.

The rounding is exactly the public references': 8-bit bilinear resizing, a centre crop that rounds half to even, and
truncation of the finished frames. Knows numpy, Pillow and torch; no model and no face.
"""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lipsync_server.media_types import Frames

"""RGB: (H, W, 3) or (n, H, W, 3)."""


LONG_SIDE, SHORT_SIDE = 1920, 1080
"""The sides of the largest video, in either orientation."""


@dataclass(frozen=True)
class Framing:
    """Two steps from a source picture to the target: resize to `resized`, then crop height x width at (top, left)."""

    height: int
    width: int
    resized: tuple[int, int]
    top: int
    left: int


def frame_picture(source: tuple[int, int], target: tuple[int, int]) -> Framing:
    """The smallest size of `source` (height, width) that covers `target`, with torchvision's centre crop."""
    scale = max(target[0] / source[0], target[1] / source[1])
    resized = math.ceil(scale * source[0]), math.ceil(scale * source[1])
    top, left = (round((have - want) / 2.0) for have, want in zip(resized, target, strict=True))
    return Framing(*target, resized, top, left)


def fit_picture(picture: Frames, target: tuple[int, int]) -> Frames:
    """Resize (8-bit bilinear, antialiased) and centre-crop an RGB picture (H, W, 3) to `target` (height, width)."""
    framing = frame_picture(picture.shape[:2], target)
    image = Image.fromarray(picture).resize(framing.resized[::-1], Image.Resampling.BILINEAR)
    left, top = framing.left, framing.top
    return np.asarray(image.crop((left, top, left + framing.width, top + framing.height)))


def to_tensor(picture: Frames) -> Tensor:
    """uint8 RGB (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 - 0.5) * 2


def to_uint8(frames: Tensor) -> Tensor:
    """(3, T, H, W) in [-1, 1] to uint8 (T, H, W, 3), truncated and not rounded, as in the reference."""
    return ((frames + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)


def fit_video(picture: Frames) -> tuple[Frames, tuple[float, float]]:
    """The picture (H, W, 3) at the video's size, and its scale in x and y.

    At most 1920 x 1080 in either orientation, with even sides, never enlarged. An odd last row or column is cut off.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    if scale < 1:
        size = max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)
        resized = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return resized, (size[0] / width, size[1] / height)
    return np.ascontiguousarray(picture[: height // 2 * 2, : width // 2 * 2]), (1.0, 1.0)


class HostCopy:
    """Frames on their way from the GPU to the host.

    The copy waits for these frames only. So the caller can queue the computation of the next frames first, and the GPU
    computes them meanwhile.
    """

    def __init__(self, frames: Tensor) -> None:
        """frames: (3, T, H, W) in [-1, 1]; their conversion to bytes is queued now."""
        self._frames = to_uint8(frames).contiguous()
        on_gpu = self._frames.is_cuda
        self._made = torch.cuda.current_stream(self._frames.device).record_event() if on_gpu else None

    def wait(self) -> Frames:
        """The frames, uint8 RGB (T, H, W, 3)."""
        if self._made is None:
            return self._frames.numpy()
        stream = _copies(self._frames.device)
        with torch.cuda.stream(stream):
            stream.wait_event(self._made)
            # Returns after the copy, so torch may reuse the memory of these frames at once.
            copied: Frames = self._frames.cpu().numpy()
        return copied


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """The queue of GPU work for copies to the host, beside the queue of computation."""
    return torch.cuda.Stream(device)

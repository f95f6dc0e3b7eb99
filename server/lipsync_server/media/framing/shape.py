"""Change the shape of a video: the part of the picture to keep, and the place of a frame in a wider or taller video.

There are two steps, because a head must not be cut. Before generation the picture is cropped to the requested aspect
ratio, as large as possible, if the head fits into the crop. After generation each frame is scaled without distortion,
and the rest of the shape is filled. Knows boxes and pixels; does not know how a head is found.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from lipsync_server.media.framing.wishes import Fill, VideoFormat
from lipsync_server.media_types import Frames

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Size = tuple[int, int]
"""Width and height in pixels."""

ASPECTS: Final[dict[VideoFormat, float]] = {"9:16": 9 / 16, "1:1": 1.0, "16:9": 16 / 9, "4:5": 4 / 5}
_EYE_LINE: Final = 0.42
"""Height of the head's centre in a cropped picture: a little above the middle, as in portraits by photographers."""
_TRIMMED: Final = 0.07
"""A frame that misses the wanted aspect ratio by up to this share is trimmed at its borders and not widened: engines
with fixed sizes miss the ratio by 2 to 6 %."""
_BLUR_PX: Final = 48
"""The shorter side of the small picture from which the blurred background is made."""
_DIMMED: Final = 0.6
"""Brightness of the blurred background, darker so that the viewer looks at the person."""


def head_box(face: Box) -> Box:
    """The head with hair, ears and chin around a face from forehead to chin."""
    left, top, right, bottom = face
    width, height = right - left, bottom - top
    return left - 0.3 * width, top - 0.55 * height, right + 0.3 * width, bottom + 0.25 * height


def cut_around(size: Size, head: Box, aspect: float) -> tuple[int, int, int, int] | None:
    """The largest part of a picture with the requested aspect ratio and the whole head; None if there is none.

    Returns left, top, right, bottom in whole pixels. A head that reaches beyond the picture counts up to its border.
    """
    width, height = size
    if width > aspect * height:
        cut_width, cut_height = round(aspect * height), height
    else:
        cut_width, cut_height = width, round(width / aspect)
    if cut_width < 1 or cut_height < 1:
        return None
    head_left, head_right = max(0.0, head[0]), min(float(width), head[2])
    head_top, head_bottom = max(0.0, head[1]), min(float(height), head[3])
    if head_right - head_left > cut_width or head_bottom - head_top > cut_height:
        return None
    left = _place((head_left + head_right) / 2 - cut_width / 2, head_left, head_right, cut_width, width)
    top = _place((head_top + head_bottom) / 2 - _EYE_LINE * cut_height, head_top, head_bottom, cut_height, height)
    return left, top, left + cut_width, top + cut_height


def _place(wanted: float, head_from: float, head_to: float, length: int, whole: int) -> int:
    """The start of a crop of `length`: as near to `wanted` as the head and the picture's border allow."""
    first = int(np.ceil(max(0.0, head_to - length)))
    last = int(np.floor(min(whole - length, head_from)))
    return min(max(round(wanted), first), max(first, last))


def video_size(frame: Size, wanted: VideoFormat, height: int | None) -> Size:
    """The video's width and height, both even, for frames of the size `frame`.

    Without a height the frame keeps its scale: the shape is the smallest that holds the frame, or the frame trimmed.
    """
    width, frame_height = frame
    aspect = ASPECTS.get(wanted, width / frame_height)
    if height is None:
        if _is_near(width / frame_height, aspect):
            height = frame_height if width >= aspect * frame_height else round(width / aspect)
        else:
            height = frame_height if width <= aspect * frame_height else round(width / aspect)
    return max(2, 2 * round(aspect * height / 2)), max(2, 2 * round(height / 2))


def _is_near(aspect: float, wanted: float) -> bool:
    """Whether trimming the borders by at most _TRIMMED reaches the wanted aspect ratio."""
    return max(aspect / wanted, wanted / aspect) <= 1 + _TRIMMED


@dataclass(frozen=True)
class Framed:
    """Puts frames into the video's shape. size: the video's width and height. colour: RGB of a plain background."""

    size: Size
    fill: Fill = "blur"
    colour: tuple[int, int, int] = (0, 0, 0)

    def fit(self, frames: Frames) -> Frames:
        """Frames (n, H, W, 3) uint8 RGB -> (n, height, width, 3), each whole, or trimmed where it nearly fits."""
        n, frame_height, frame_width = frames.shape[:3]
        width, height = self.size
        if (frame_width, frame_height) == self.size:
            return frames
        out = np.empty((n, height, width, 3), np.uint8)
        for index, frame in enumerate(frames):
            if _is_near(frame_width / frame_height, width / height):
                out[index] = _scaled(_trimmed(frame, width / height), self.size)
                continue
            scale = min(width / frame_width, height / frame_height)
            inner = (max(1, round(frame_width * scale)), max(1, round(frame_height * scale)))
            left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
            scaled = _scaled(frame, inner)
            if self.fill == "plain":
                beside = (top, height - inner[1] - top, left, width - inner[0] - left)
                cv2.copyMakeBorder(scaled, *beside, cv2.BORDER_CONSTANT, out[index], self.colour)
            else:
                out[index] = _blurred(frame, self.size)
                out[index, top : top + inner[1], left : left + inner[0]] = scaled
        return out


def _trimmed(frame: Frames, aspect: float) -> Frames:
    """The middle of the frame with the wanted aspect ratio."""
    height, width = frame.shape[:2]
    if width > aspect * height:
        kept = round(aspect * height)
        left = (width - kept) // 2
        return frame[:, left : left + kept]
    kept = min(height, round(width / aspect))
    top = (height - kept) // 2
    return frame[top : top + kept]


def _scaled(frame: Frames, size: Size) -> Frames:
    """The frame at `size` (width, height): averaged over areas when it shrinks, cubic when it grows."""
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    shrinks = size[0] < frame.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=way), np.uint8)


def border_colour(picture: Frames) -> tuple[int, int, int]:
    """RGB of most of the picture's border."""
    sides = [picture[[0, -1]].reshape(-1, 3), picture[:, [0, -1]].reshape(-1, 3)]
    red, green, blue = np.median(np.concatenate(sides), axis=0).astype(int).tolist()
    return red, green, blue


def _blurred(frame: Frames, size: Size) -> Frames:
    """The frame as a background: it covers the whole video, blurred and darker."""
    # Blurred where it is small and enlarged afterwards, which looks the same and costs a hundredth.
    width, height = size
    scale = _BLUR_PX / min(size)
    small = _scaled(_trimmed(frame, width / height), (max(1, round(width * scale)), max(1, round(height * scale))))
    blurred = cv2.GaussianBlur(small, (0, 0), 3.0)
    large = cv2.resize(blurred, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.convertScaleAbs(large, alpha=_DIMMED), np.uint8)

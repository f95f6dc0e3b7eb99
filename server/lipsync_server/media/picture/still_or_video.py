"""Reads the file in the field `image`: a still picture, or a short video whose face is to be dubbed.

The first bytes of the file decide which of the two readers gets it; the file's name and extension are ignored.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lipsync_server.media.formats.container import is_video
from lipsync_server.media.info import PictureInfo, PixelFile
from lipsync_server.media.picture.still import load_image, probe_image
from lipsync_server.media.picture.video import first_frame, probe_picture_video
from lipsync_server.media_types import Frames


def probe_picture(path: Path, *, max_pixels: int) -> PictureInfo:
    """Check that `path` is a picture or a video that can stand in for one. Raises as probe_image does."""
    if not is_video(path):
        still = probe_image(path, max_pixels=max_pixels)
        return PictureInfo(still.width, still.height, still.format)
    video = probe_picture_video(path)
    return PictureInfo(video.width, video.height, video.codec, video.duration_s)


def load_picture(path: Path, *, max_pixels: int) -> tuple[Frames, PictureInfo]:
    """The picture, or a video's first frame, as uint8 RGB (H, W, 3), upright. Raises as probe_image does."""
    info = probe_picture(path, max_pixels=max_pixels)
    if info.is_video:
        return first_frame(path, max_pixels=max_pixels), info
    return load_image(path, max_pixels=max_pixels), info


def write_picture(path: Path, target: Path, *, max_pixels: int) -> PixelFile:
    """Decode the picture into the file `target`. Raises as probe_image does."""
    pixels, info = load_picture(path, max_pixels=max_pixels)
    pixels.tofile(target)
    height, width = pixels.shape[:2]
    return PixelFile(target, replace(info, width=width, height=height))


def read_pixels(file: PixelFile) -> Frames:
    """The picture that write_picture stored, as uint8 RGB (H, W, 3). Decodes nothing."""
    return np.fromfile(file.path, np.uint8).reshape(file.info.height, file.info.width, 3)

"""Frames of a caller's video for an engine that dubs it, decoded in a process with limits.

The process lives as long as the generator; closing the generator ends it.
"""

from collections.abc import Generator, Iterable
from pathlib import Path

from lipsync_server.media.sandbox.process import DecoderProcess
from lipsync_server.media.sandbox.tasks import ProbePicture, ReadVideoFrames
from lipsync_server.media_types import Frames

MAX_PIXELS = 16_000_000
"""A frame of this many pixels is beyond 4K."""


def read_video_frames(
    path: Path, indices: Iterable[int], *, fps: float = 25, max_side: int | None = None
) -> Generator[Frames, None, None]:
    """For each index i the frame that is on screen at i / fps seconds, as uint8 RGB (H, W, 3), upright.

    max_side: larger frames are scaled down to this length of the longer side. Past the end of the video its last frame
    is repeated. Rising indices are read in one pass; a falling index starts again from the beginning. Holds two frames
    here and two in the process. Raises InvalidImage for a video that cannot be decoded.
    """
    process = DecoderProcess()
    try:
        yield from process.frames(ReadVideoFrames(path, tuple(indices), fps, MAX_PIXELS, max_side))
    finally:
        process.close()


def video_duration_s(path: Path) -> float:
    """Length of a video in seconds, 0 where it is not known."""
    process = DecoderProcess()
    try:
        return process.run(ProbePicture(path, MAX_PIXELS)).duration_s or 0.0
    finally:
        process.close()

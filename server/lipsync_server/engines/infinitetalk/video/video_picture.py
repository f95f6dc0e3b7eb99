"""A video in place of the picture (dubbing): each window is conditioned on the video's frame at its start.

As in the reference, the frame on screen when a window begins is that window's picture, and a video that is shorter than
the speech holds its last frame. Reads frames through media/. Holds one frame at a time.
"""

from collections.abc import Iterator
from pathlib import Path

from lipsync_server.engines.base import FPS, Box, Frames
from lipsync_server.media.sandbox.video_frames import read_video_frames
from lipsync_server.models.sampling.windows import Schedule, Window


class VideoPicture:
    """Callable as conditions.PictureAt. Windows come in order; the same window may come again after a failure."""

    def __init__(self, path: Path, first_frame: Frames, plan: Schedule, boxes: tuple[Box, Box] | None) -> None:
        self._path, self._first_frame, self._plan, self._boxes = path, first_frame, plan, boxes
        self._reader: Iterator[Frames] | None = None
        self._last: tuple[int, Frames] = (0, first_frame)

    def __call__(self, window: Window) -> tuple[Frames, tuple[Box, Box] | None]:
        """The video's frame when `window` begins, uint8 RGB (H, W, 3), and the boxes."""
        if window.index == 0:
            return self._first_frame, self._boxes
        while self._last[0] < window.index:
            if self._reader is None:
                starts = [later.start for later in self._plan.windows[window.index :]]
                self._reader = read_video_frames(self._path, starts, fps=FPS)
                self._last = (window.index - 1, self._first_frame)
            try:
                self._last = (self._last[0] + 1, next(self._reader))
            except Exception:  # any error ends a generator; a new one raises the reason again at the next call
                self._reader = None
                raise
        return self._last[1], self._boxes

    def close(self) -> None:
        """Close the reader, which decodes the video in a process of its own."""
        close = getattr(self._reader, "close", None)
        if close is not None:
            close()

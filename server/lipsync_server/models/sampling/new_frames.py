"""Keeps the new frames of a decoded window, and the last frames, which the next window takes over.

A VAE decodes the latents of a window to a few frames at a time. The first frames repeat the end of the window before,
and the frames beyond the end of the video are not wanted (windows.py). Knows counts of frames. Does not know the model,
nor where the frames go.
"""

import torch
from torch import Tensor

from lipsync_server.models.sampling.windows import Window


class NewFrames:
    """The decoded frames of one window, which arrive in order.

    motion_frames: how many frames the next window takes over; 0 after the last window. n_sent: new frames that an
    earlier attempt at this window has sent already.
    """

    def __init__(self, window: Window, *, motion_frames: int, n_sent: int = 0) -> None:
        self._window, self._motion_frames = window, motion_frames
        self._first = window.keep_first + n_sent
        self._position = 0
        self._tail: list[Tensor] = []

    @property
    def complete(self) -> bool:
        """Whether every frame that is sent or taken over has arrived."""
        return self._motion_frames == 0 and self._position >= self._window.keep_stop

    def add(self, frames: Tensor) -> Tensor | None:
        """Take the next frames (3, n, H, W). Returns the new ones among them, not sent before; None without any."""
        begin, self._position = self._position, self._position + frames.shape[1]
        if self._motion_frames:
            self._tail.append(frames)
            while sum(part.shape[1] for part in self._tail[1:]) >= self._motion_frames:
                self._tail.pop(0)
        first, stop = max(begin, self._first), min(self._position, self._window.keep_stop)
        return frames[:, first - begin : stop - begin] if first < stop else None

    def tail(self) -> Tensor:
        """The last frames of the window, (3, motion_frames, H, W). Call this after the last `add`."""
        return torch.cat(self._tail, dim=1)[:, -self._motion_frames :]

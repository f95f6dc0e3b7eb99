"""Turn the loop's squares into frames of the video while the GPU decodes the next squares.

To set a square back into the picture takes CPU time (optical flow, copies to the host) as well as GPU time. One thread
does it on its own CUDA stream, a queue of GPU work that waits only for the squares. On the CPU all work runs in order,
without a thread. Knows streams; does not know how a square is placed.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from lipsync_server.engines.base import Frames

Place = Callable[[Tensor], Frames]
"""The loop's frames, float32 (3, n, 512, 512), nominally in [-1, 1], to the video's, uint8 RGB (n, H, W, 3)."""


class Placing:
    """Places squares in the background, in order. Call `close` after the last square, or to stop early."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self._place = place
        self._side: torch.cuda.Stream | None = None
        self._thread: ThreadPoolExecutor | None = None
        if device.type == "cuda":
            # This stream has priority: its kernels are short, and a viewer waits for their result.
            self._side = torch.cuda.Stream(device, priority=-1)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="placing")

    def begin(self, squares: Tensor) -> Callable[[], Frames]:
        """Begin to place `squares`; call the result to wait for the frames."""
        if self._thread is None or self._side is None:
            return lambda: self._place(squares)
        ready = torch.cuda.current_stream(squares.device).record_event()
        future: Future[Frames] = self._thread.submit(self._beside, squares, ready, self._side)
        return future.result

    def close(self) -> None:
        """End the thread. Frames that the caller has not read are lost."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _beside(self, squares: Tensor, ready: torch.cuda.Event, side: torch.cuda.Stream) -> Frames:
        """Place `squares` on the side stream once the main stream has reached `ready`, where they are computed."""
        with torch.cuda.stream(side):
            side.wait_event(ready)
            # torch must not reuse this memory on the main stream before the side stream has read it.
            squares.record_stream(side)
            return self._place(squares)

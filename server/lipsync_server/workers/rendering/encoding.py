"""Encodes frames while the engine makes more: a bounded queue and one thread that feeds a video encoder.

The engine queues a batch and continues. The engine waits only when the queue is full, so memory stays bounded. A large
model makes its frames in bursts: seconds of denoising, then all frames of a window within a second, faster than H.264.
The queue holds most of such a burst, and the encoder catches up during the next denoising. Knows neither engines nor
video formats.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lipsync_server.engines.base import Frames

# More than the 72 frames of 640 x 640 that InfiniteTalk decodes at once (84 MiB). With 16 MiB a window of 8.8 s waited
# 0.2 s for H.264 (an H200, 16 cores). A larger batch is accepted when the queue is empty.
_MAX_WAITING_BYTES = 128 * 1024 * 1024


class FrameSink(Protocol):
    """The part of media.encoder.FrameEncoder that this module uses."""

    def write(self, frames: Frames) -> None: ...


class BackgroundEncoder:
    """Feeds batches to `sink` from one thread, in order. The next call here raises an error of the sink."""

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        self._waiting: deque[Frames | Callable[[], None]] = deque()
        self._waiting_bytes = 0
        self._busy = False
        self._action_pending = False
        self._stopped = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def put(self, frames: Frames) -> None:
        """Queue a batch, (n, height, width, 3) uint8; waits while the queue is full. Do not modify it afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._has_room(frames.nbytes))
            self._raise_error()
            self._waiting.append(frames)
            self._waiting_bytes += frames.nbytes
            self._changed.notify_all()

    def after_all(self, action: Callable[[], None]) -> None:
        """Queue `action`: the encoder's thread runs it once all batches queued before are encoded.

        Returns at once, unless an earlier action has not run yet; then it waits for that action.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._action_pending)
            self._raise_error()
            self._waiting.append(action)
            self._action_pending = True
            self._changed.notify_all()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until the queue is empty; False when that took longer than `timeout_s` seconds."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._error or (not self._waiting and not self._busy), timeout=timeout_s
            )
            self._raise_error()
            return bool(done)

    def close(self) -> None:
        """Drop the queued batches and end the thread; returns when the sink is no longer in use."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()
        self._thread.join()

    def _has_room(self, n_bytes: int) -> bool:
        """Whether a batch of `n_bytes` may be queued; an empty queue accepts a batch of any size."""
        return self._waiting_bytes == 0 or self._waiting_bytes + n_bytes <= _MAX_WAITING_BYTES

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """Encode batches and run actions in order, until closed or until one raises. The body of the thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                work = self._waiting.popleft()
                self._busy = True
                if not callable(work):
                    self._waiting_bytes -= work.nbytes
                self._changed.notify_all()
            error: Exception | None = None
            try:
                if callable(work):
                    work()
                else:
                    self._sink.write(work)
            except Exception as caught:  # raised again in the thread that calls next
                error = caught
            del work
            with self._changed:
                self._busy = False
                self._action_pending = any(callable(waiting) for waiting in self._waiting)
                self._error = error
                self._changed.notify_all()
            if error is not None:
                return

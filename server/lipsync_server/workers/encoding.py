"""Encodes frames beside the engine that makes them: a bounded queue and one thread that feeds a video encoder.

The engine hands a batch over and goes on. It waits only when the encoder is far behind, so memory stays bounded and a
GPU, which is slower than any encoder, never waits. Knows nothing of engines or of what the encoder writes.
"""

import threading
from collections import deque
from typing import Protocol

from lipsync_server.engines.base import Frames

_MAX_WAITING_BYTES = 48 * 1024 * 1024
_MIN_WAITING_BATCHES = 1


class FrameSink(Protocol):
    """What media.video.FrameEncoder offers, as far as this module uses it."""

    def write(self, frames: Frames) -> None: ...
    def end_segment(self) -> int: ...


class BackgroundEncoder:
    """Feeds batches to `sink` from one thread, in order. An error of the sink is raised by the next call here."""

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        self._waiting: deque[Frames] = deque()
        self._waiting_bytes = 0
        self._encoding = False
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def put(self, frames: Frames) -> None:
        """Queue a batch; waits while the queue is full. The batch must not be written to afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._has_room(frames.nbytes))
            self._raise_error()
            self._waiting.append(frames)
            self._waiting_bytes += frames.nbytes
            self._changed.notify_all()

    def end_segment(self) -> int:
        """Wait until all batches are encoded, make them durable, and return how many frames are."""
        self.drain()
        return self._sink.end_segment()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until all batches are encoded; False when that took longer than `timeout_s`."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._error or (not self._waiting and not self._encoding), timeout=timeout_s
            )
            self._raise_error()
            return bool(done)

    @property
    def n_waiting_frames(self) -> int:
        with self._changed:
            return sum(len(frames) for frames in self._waiting)

    def close(self) -> None:
        """Drop what waits and end the thread; returns when the sink is no longer in use."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()
        self._thread.join()

    def _has_room(self, n_bytes: int) -> bool:
        return len(self._waiting) < _MIN_WAITING_BATCHES or self._waiting_bytes + n_bytes <= _MAX_WAITING_BYTES

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                frames = self._waiting.popleft()
                self._waiting_bytes -= frames.nbytes
                self._encoding = True
                self._changed.notify_all()
            error: BaseException | None = None
            try:
                self._sink.write(frames)
            except Exception as caught:  # raised again in the thread of whoever calls next
                error = caught
            del frames
            with self._changed:
                self._encoding = False
                self._error = error
                self._changed.notify_all()
            if error is not None:
                return

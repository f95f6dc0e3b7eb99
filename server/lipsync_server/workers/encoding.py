"""Encodes frames beside the engine that makes them: a bounded queue and one thread that feeds a video encoder.

The engine hands a batch over and goes on. It waits only when the encoder is far behind, so memory stays bounded and a
GPU, which is slower than any encoder, never waits. Knows nothing of engines or of what the encoder writes.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lipsync_server.engines.base import Frames

# Some frames of slack smooth out the two speeds; more would only be memory. A larger batch goes in when nothing waits.
_MAX_WAITING_BYTES = 16 * 1024 * 1024


class FrameSink(Protocol):
    """What media.encoder.FrameEncoder offers, as far as this module uses it."""

    def write(self, frames: Frames) -> None: ...


class BackgroundEncoder:
    """Feeds batches to `sink` from one thread, in order. An error of the sink is raised by the next call here."""

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
        """Queue a batch; waits while the queue is full. The batch must not be written to afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._has_room(frames.nbytes))
            self._raise_error()
            self._waiting.append(frames)
            self._waiting_bytes += frames.nbytes
            self._changed.notify_all()

    def after_all(self, action: Callable[[], None]) -> None:
        """Queue `action`: the encoder's thread runs it once everything queued before is encoded.

        Returns at once, unless an earlier action has not run yet: then that comes first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._action_pending)
            self._raise_error()
            self._waiting.append(action)
            self._action_pending = True
            self._changed.notify_all()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was queued is done; False when that took longer than `timeout_s`."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._error or (not self._waiting and not self._busy), timeout=timeout_s
            )
            self._raise_error()
            return bool(done)

    def close(self) -> None:
        """Drop what waits and end the thread; returns when the sink is no longer in use."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()
        self._thread.join()

    def _has_room(self, n_bytes: int) -> bool:
        return self._waiting_bytes == 0 or self._waiting_bytes + n_bytes <= _MAX_WAITING_BYTES

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
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
            except Exception as caught:  # raised again in the thread of whoever calls next
                error = caught
            del work
            with self._changed:
                self._busy = False
                self._action_pending = any(callable(waiting) for waiting in self._waiting)
                self._error = error
                self._changed.notify_all()
            if error is not None:
                return

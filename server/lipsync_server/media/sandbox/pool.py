"""Decoder processes kept warm: started ahead, and used again after a file that decoded well.

Starting Python with the decoders takes 0.3 to 1 s, handing a task to a warm process about 1 ms. A process that met a
bad file is thrown away and a fresh one started in its place. All methods may be called from any thread.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from lipsync_server.media.sandbox.limits import why_not
from lipsync_server.media.sandbox.process import DecoderProcess
from lipsync_server.media.sandbox.tasks import Task

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class DecoderPool:
    """Keeps up to `n_warm` decoder processes ready. More are started as needed and kept no longer than their task."""

    def __init__(self, n_warm: int = 2) -> None:
        self._n_warm = n_warm
        self._idle: list[DecoderProcess] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def warm_up(self) -> None:
        """Start the warm processes; returns at once, while they import their libraries."""
        if (reason := why_not()) is not None:
            log.warning("%s", reason)
        while True:
            with self._lock:
                if self._is_closed or len(self._idle) >= self._n_warm:
                    return
                self._idle.append(DecoderProcess())

    @contextmanager
    def process(self) -> Iterator[DecoderProcess]:
        """A process for one task. Afterwards it is kept when it is fit for another file, else replaced."""
        process = self._take()
        try:
            yield process
        finally:
            self._give_back(process)

    def run(self, task: Task[Result]) -> Result:
        """Do `task` and wait for its result. Raises what DecoderProcess.run raises."""
        with self.process() as process:
            return process.run(task)

    def close(self) -> None:
        """End all processes that are idle; those at work end with their task."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _take(self) -> DecoderProcess:
        with self._lock:
            while self._idle:
                process = self._idle.pop(0)
                if process.is_alive():
                    return process
                process.close()
        return DecoderProcess()

    def _give_back(self, process: DecoderProcess) -> None:
        with self._lock:
            if process.is_fit and process.is_alive() and not self._is_closed and len(self._idle) < self._n_warm:
                self._idle.insert(0, process)  # the one that is warmest in the processor's caches comes first
                return
            if not self._is_closed and len(self._idle) < self._n_warm:
                self._idle.append(DecoderProcess())
        process.close()

"""Decoder processes kept warm: started ahead, and used again after a file that decoded well.

Starting Python with the decoders takes 0.3 to 1 s, handing a task to a warm process about 1 ms. A process in which a
decoder failed is thrown away and a fresh one started in its place. All methods may be called from any thread.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lipsync_server.media.sandbox.limits import why_not
from lipsync_server.media.sandbox.process import DecoderProcess
from lipsync_server.media.sandbox.tasks import Task

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class BorrowedProcess:
    """A decoder process for the time of one task. kill() may be called from any thread.

    After the task the process may already have another caller's file, so a late kill() has no effect.
    """

    def __init__(self, process: DecoderProcess) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._is_over = False

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def run(self, task: Task[Result], began: Callable[[], object] = bool) -> Result:
        """Do `task` and wait for its result; see DecoderProcess.run."""
        return self._process.run(task, began)

    def kill(self) -> None:
        """End the process now, whatever it does; a run() that waits raises."""
        with self._lock:
            if not self._is_over:
                self._process.kill()

    def end(self) -> None:
        """The task is over: kill() has no effect from now on."""
        with self._lock:
            self._is_over = True


class DecoderPool:
    """Keeps up to `n_warm` decoder processes ready. More are started as needed and kept no longer than their task."""

    def __init__(self, n_warm: int = 2) -> None:
        self._n_warm = n_warm
        self._idle: list[DecoderProcess] = []
        self._n_starting = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def warm_up(self) -> None:
        """Start the warm processes; returns at once, while they import their libraries."""
        if (reason := why_not()) is not None:
            log.warning("%s", reason)
        while self._add_fresh():
            pass

    @contextmanager
    def process(self) -> Iterator[BorrowedProcess]:
        """A process for one task. Afterwards it is kept when it is fit for another file, else replaced."""
        process = self._take()
        borrowed = BorrowedProcess(process)
        try:
            yield borrowed
        finally:
            borrowed.end()
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
            # A process that was just killed may still look alive.
            fit = process.is_fit and not process.was_killed and process.is_alive()
            if fit and not self._is_closed and self._n_kept() < self._n_warm:
                self._idle.insert(0, process)  # the one that is warmest in the processor's caches comes first
                return
        self._add_fresh()
        process.close()

    def _add_fresh(self) -> bool:
        """Start a process if one is missing. The lock is free meanwhile: who takes a process waits for no fork."""
        with self._lock:
            if self._is_closed or self._n_kept() >= self._n_warm:
                return False
            self._n_starting += 1
        try:
            fresh = DecoderProcess()
        except BaseException:
            with self._lock:
                self._n_starting -= 1
            raise
        if not self._keep(fresh):
            fresh.close()
        return True

    def _keep(self, fresh: DecoderProcess) -> bool:
        """Add a process that was started; False when the pool was closed meanwhile."""
        with self._lock:
            self._n_starting -= 1
            if not self._is_closed:
                self._idle.append(fresh)
            return not self._is_closed

    def _n_kept(self) -> int:
        """The processes that are ready or starting. The caller has the lock."""
        return len(self._idle) + self._n_starting

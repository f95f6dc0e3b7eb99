"""Handing out workers: one at a time each, to whoever waits for one.

Knows which workers are handed out. Which of the others is to be next is the executor's choice.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from lipsync_server.workers.base import Worker

W = TypeVar("W", bound=Worker)


class IdleWorkers(Generic[W]):
    """pick: the worker to hand out now, one that is not in here, or None while there is none."""

    def __init__(self, pick: Callable[[], W | None]) -> None:
        self._pick = pick
        self._handed_out: set[str] = set()
        self._changed = asyncio.Event()

    def __contains__(self, worker: Worker) -> bool:
        """Whether `worker` is handed out."""
        return worker.worker_id in self._handed_out

    async def next(self) -> W:
        """Wait for a worker and hand it out."""
        while True:
            worker = self._pick()
            if worker is not None:
                self._handed_out.add(worker.worker_id)
                return worker
            self._changed.clear()
            await self._changed.wait()

    def release(self, worker: Worker) -> None:
        """Take a worker back."""
        self._handed_out.discard(worker.worker_id)
        self.changed()

    def changed(self) -> None:
        """A worker has become another: who waits has it picked again."""
        self._changed.set()

"""Reserves idle workers: each worker for one caller at a time.

Knows which workers are reserved. The executor decides which of the others is next.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from lipsync_server.workers.base import Worker

W = TypeVar("W", bound=Worker)


class IdleWorkers(Generic[W]):
    """pick: returns the worker to reserve next, one that is not reserved, or None while there is none."""

    def __init__(self, pick: Callable[[], W | None]) -> None:
        self._pick = pick
        self._handed_out: set[str] = set()
        self._changed = asyncio.Event()

    def __contains__(self, worker: Worker) -> bool:
        """Whether `worker` is reserved."""
        return worker.worker_id in self._handed_out

    async def next(self) -> W:
        """Wait for an idle worker and reserve it."""
        while True:
            worker = self._pick()
            if worker is not None:
                self._handed_out.add(worker.worker_id)
                return worker
            self._changed.clear()
            await self._changed.wait()

    def release(self, worker: Worker) -> None:
        """End the reservation of a worker."""
        self._handed_out.discard(worker.worker_id)
        self.changed()

    def changed(self) -> None:
        """The state of a worker has changed: waiting callers call `pick` again."""
        self._changed.set()

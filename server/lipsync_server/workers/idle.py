"""Reserves idle workers, each for one caller at a time.

Knows which workers are reserved. The executor decides which of the others is next.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from lipsync_server.workers.base import Worker

W = TypeVar("W", bound=Worker)


class IdleWorkers(Generic[W]):
    """The reserved workers. pick: returns a worker that is not reserved, the next to reserve, or None without one."""

    def __init__(self, pick: Callable[[], W | None]) -> None:
        self._pick = pick
        self._reserved: set[str] = set()
        self._changed = asyncio.Event()

    def __contains__(self, worker: Worker) -> bool:
        """Whether `worker` is reserved."""
        return worker.worker_id in self._reserved

    async def next(self) -> W:
        """Wait for an idle worker and reserve it."""
        while True:
            worker = self._pick()
            if worker is not None:
                self._reserved.add(worker.worker_id)
                return worker
            self._changed.clear()
            await self._changed.wait()

    def release(self, worker: Worker) -> None:
        """End the reservation of a worker."""
        self._reserved.discard(worker.worker_id)
        self.changed()

    def changed(self) -> None:
        """The state of a worker has changed: waiting callers call `pick` again."""
        self._changed.set()

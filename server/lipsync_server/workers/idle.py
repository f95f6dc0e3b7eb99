"""Reserves idle workers, each for one caller at a time, and decides which worker is next.

Knows the workers' states and reservations. The executor makes and removes the workers, and says in which order they are
preferred.
"""

import asyncio
from collections.abc import Callable, Sequence

from lipsync_server.workers.base import Worker
from lipsync_server.workers.worker import EngineWorker


class IdleWorkers:
    """The reserved workers among `workers()`, the preferred one first.

    lends_without_engines: whether a worker that has no engine is lent. The workers of one machine are: no other machine
    can bring the engine, so the jobs must end with the reason. In a cluster such a worker is passed over.
    """

    def __init__(self, workers: Callable[[], Sequence[EngineWorker]], *, lends_without_engines: bool) -> None:
        self._workers, self._lends_without_engines = workers, lends_without_engines
        self._reserved: set[str] = set()
        self._changed = asyncio.Event()

    async def next(self) -> EngineWorker:
        """Wait for an idle worker and reserve it."""
        while True:
            worker = self._choose()
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
        """The state of a worker has changed, so waiting callers choose again."""
        self._changed.set()

    def _choose(self) -> EngineWorker | None:
        """A ready worker without a reservation; if no worker can ever start, a dead one; else None."""
        workers = self._workers()
        free = [worker for worker in workers if worker.worker_id not in self._reserved]
        for worker in free:
            if worker.state == "ready" and (worker.engines or self._lends_without_engines):
                return worker
        # When no worker can be started at all, a task must fail with the reason instead of waiting forever.
        if free and all(worker.hopeless for worker in workers):
            return free[0]
        return None

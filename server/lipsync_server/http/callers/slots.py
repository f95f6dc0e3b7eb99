"""Limits on what happens at the same time: uploads, event streams, and one request per Idempotency-Key.

Each limit keeps one caller from using up the server's memory, disk or connections. Does not know requests.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from lipsync_server.errors import QueueFull

MAX_STREAMS = 256


class Slots:
    """Counts activities of one kind. One too many is refused: waiting would only keep its connection open."""

    def __init__(self, n_slots: int, activity: str) -> None:
        """activity: follows the number in the message, for example "uploads are being received"."""
        self._n_slots, self._activity = n_slots, activity
        self.n_taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one slot in the block. Raises QueueFull if none is free."""
        if self.n_taken >= self._n_slots:
            raise QueueFull(
                f"{self.n_taken} {self._activity} at this moment. Try again in a few seconds.", retry_after_s=5
            )
        self.n_taken += 1
        try:
            yield
        finally:
            self.n_taken -= 1


class KeyLocks:
    """One lock per caller and Idempotency-Key, deleted once no request holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, owner: str, key: str | None) -> AsyncIterator[None]:
        """Hold the lock of `owner` and `key` in the block; without a key nothing is locked."""
        if key is None:
            yield
            return
        lock = self._locks.get((owner, key))
        if lock is None:
            lock = self._locks[owner, key] = asyncio.Lock()
        async with lock:
            yield

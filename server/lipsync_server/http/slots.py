"""How many uploads are taken in at once, and that one Idempotency-Key is taken in by one request at a time.

Knows nothing of requests.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from lipsync_server.errors import QueueFull


class UploadSlots:
    """Counts uploads; one too many is refused, not kept waiting with its connection open."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self.n_taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        if self.n_taken >= self._n_slots:
            raise QueueFull(
                f"{self.n_taken} uploads are being taken in at this moment. Try again in a few seconds.",
                retry_after_s=5,
            )
        self.n_taken += 1
        try:
            yield
        finally:
            self.n_taken -= 1


class KeyLocks:
    """A lock per owner and key, forgotten with its last user."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, owner: str, key: str | None) -> AsyncIterator[None]:
        if key is None:
            yield
            return
        lock = self._locks.get((owner, key))
        if lock is None:
            lock = self._locks[owner, key] = asyncio.Lock()
        async with lock:
            yield

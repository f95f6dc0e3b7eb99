"""Tells whoever waits for a job that something about it changed.

Knows ids and asyncio. Carries no data: a woken waiter reads the job again, so a wake-up that was missed or doubled
does no harm.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until `event` is set, for `timeout_s` at most; whether it is.

    Not by asyncio.wait_for: in Python 3.11 that swallows a cancellation that comes together with the event.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Watch:
    """Events by job id. All calls happen on the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change until the block is left; the reader clears it."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            events = self._waiting[job_id]
            events.discard(event)
            if not events:
                del self._waiting[job_id]

    def changed(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake every waiter: the server stops."""
        for events in self._waiting.values():
            for event in events:
                event.set()

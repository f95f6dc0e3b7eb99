"""Wakes the requests that wait for a job when the job has changed.

A wake-up carries no data: the woken request reads the job again, so that a missed or repeated wake-up does no harm.
Knows ids and asyncio.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until `event` is set, for at most `timeout_s` seconds; returns whether it is set.

    asyncio.wait_for is not used: in Python 3.11 it loses a cancellation that arrives together with the event.
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
        """Yield an event that is set at every change of the job while the block runs; the reader clears the event."""
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
        """Wake the requests that wait for this job."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake every waiting request, because the server stops."""
        for events in self._waiting.values():
            for event in events:
                event.set()

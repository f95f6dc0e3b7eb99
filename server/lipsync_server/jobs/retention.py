"""How long finished videos and the records of jobs are kept, and that nothing else stays on disk.

A video is kept until it was collected plus a grace period, and at most `result_ttl_s`. Knows store and files. Does
not know HTTP. What a crash left behind is found at start by comparing the folders with the records.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.model import Job, State
from lipsync_server.jobs.store import Store
from lipsync_server.jobs.watch import set_within

log = logging.getLogger(__name__)

RECORD_TTL_S = 30 * 86400.0
_LOOK_EVERY_S = 60.0


async def sweep_leftovers(store: Store, files: JobFiles) -> None:
    """At start, before anything is taken in: drop unfinished uploads and files that no job needs any more."""

    def sweep(needed: dict[str, State]) -> int:
        files.sweep_incoming()
        orphans = [job_id for job_id in files.job_ids() if job_id not in needed]
        files.remove_all(orphans)
        for job_id, state in needed.items():
            if state == "succeeded":
                files.keep_only_video(job_id)
        return len(orphans)

    n_orphans = await asyncio.to_thread(sweep, await store.with_files())
    if n_orphans:
        log.info("removed %d job folders that an earlier run left behind", n_orphans)


async def expire(store: Store, files: JobFiles, now: float) -> int:
    """Remove the videos whose time is over; returns how many."""
    expired = await store.expired(now)
    for job_id in expired:
        # The record first: a video that the record promises must be there.
        await store.purge(job_id, now)
        await asyncio.to_thread(files.remove, job_id)
    await store.forget_before(now - RECORD_TTL_S)
    return len(expired)


class Retention:
    """The task that expires videos on time, and the two wishes that make it sooner."""

    def __init__(
        self, store: Store, files: JobFiles, *, grace_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._files = files
        self._grace_s = grace_s
        self._clock = clock
        self._wake = asyncio.Event()

    async def collect(self, job_id: str) -> Job:
        """Mark the video as picked up: it is kept for the grace period only. Again has no effect."""
        now = self._clock()
        job = await self._store.collect(job_id, now=now, expires_at=now + self._grace_s)
        self._wake.set()
        return job

    def wake(self) -> None:
        """A job has ended: its video may be the next to expire."""
        self._wake.set()

    async def delete(self, job_id: str) -> None:
        """Remove an ended job's video and what it was about."""
        await self._store.delete(job_id, self._clock())
        await asyncio.to_thread(self._files.remove, job_id)

    async def run(self) -> None:
        while True:
            try:
                if n_expired := await expire(self._store, self._files, self._clock()):
                    log.info("%d videos expired", n_expired)
                next_expiry = await self._store.next_expiry()
            except Exception:
                log.exception("expiring failed; trying again")
                next_expiry = None
            wait_s = _LOOK_EVERY_S
            if next_expiry is not None:
                wait_s = min(wait_s, max(0.05, next_expiry - self._clock()))
            await set_within(self._wake, wait_s)
            self._wake.clear()

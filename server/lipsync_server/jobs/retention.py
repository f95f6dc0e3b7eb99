"""How long finished videos and the records of jobs are kept, and that nothing else stays on disk.

A video is kept until it was collected plus a grace period, and at most `result_ttl_s`, by the keeping clock. Nothing
but its own time or a person removes a finished video: one that no record names is given a record again (restore.py).
Knows store and files. Does not know HTTP.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable

from lipsync_server.errors import DiskFull
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.keeping_clock import KeepingClock
from lipsync_server.jobs.model import Job, State
from lipsync_server.jobs.restore import restore_videos
from lipsync_server.jobs.store import Store
from lipsync_server.jobs.watch import set_within

log = logging.getLogger(__name__)

RECORD_TTL_S = 30 * 86400.0
_LOOK_EVERY_S = 60.0


async def sweep_leftovers(store: Store, files: JobFiles, *, keep_s: float) -> None:
    """At start, before anything is taken in: drop unfinished uploads and files that no job needs any more.

    keep_s: how long a video without a record is kept from now on.
    """
    await restore_videos(store, files, keep_s=keep_s)

    # A video that could not be restored is no leftover: it stays where it lies until a person has looked at it.
    with_video = await asyncio.to_thread(files.with_video)
    lost = frozenset(await store.unknown(with_video))

    def sweep(needed: dict[str, State]) -> int:
        files.sweep_incoming()
        orphans = [job_id for job_id in files.job_ids() if job_id not in needed and job_id not in lost]
        files.remove_all(orphans)
        for job_id in files.job_ids():
            if needed.get(job_id) == "succeeded":
                files.keep_only_video(job_id)
        return len(orphans)

    n_orphans = await asyncio.to_thread(sweep, await store.with_files())
    if n_orphans:
        log.info("removed %d job folders that an earlier run left behind", n_orphans)


async def expire(store: Store, files: JobFiles, now: float) -> int:
    """Remove the videos whose time is over; returns how many. now: for their records, seconds since the epoch."""
    expired = await store.expired()
    for job_id in expired:
        await _remove(files, job_id, lambda job_id=job_id: store.purge(job_id, now))  # type: ignore[misc]
    await store.forget_older_than(RECORD_TTL_S)
    return len(expired)


async def _remove(files: JobFiles, job_id: str, write: Callable[[], Awaitable[Job]]) -> None:
    """Remove a job's files once `write` has noted it; on a full disk the note has room only after they are gone."""
    try:
        # The note first: a video that its record promises must be there.
        await write()
    except sqlite3.OperationalError as error:
        log.warning("the database cannot be written (%s): job %s's files are removed first", error, job_id)
        await asyncio.to_thread(files.remove, job_id)
        try:
            await write()
        except sqlite3.OperationalError as still:
            raise DiskFull(
                "The video was removed, but the server's disk is still full and its record could not be changed. "
                "Delete more videos or other files.",
                retry_after_s=60,
            ) from still
    await asyncio.to_thread(files.remove, job_id)


class Retention:
    """The task that expires videos on time, and the two wishes that make it sooner."""

    def __init__(
        self,
        store: Store,
        files: JobFiles,
        *,
        grace_s: float,
        keeping: KeepingClock,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._files = files
        self._grace_s = grace_s
        self._keeping = keeping
        self._clock = clock
        self._wake = asyncio.Event()

    async def collect(self, job_id: str) -> Job:
        """Mark the video as picked up: it is kept for the grace period only. Again has no effect."""
        job = await self._store.collect(job_id, now=self._clock(), keep_s=self._grace_s)
        self._wake.set()
        return job

    def wake(self) -> None:
        """A job has ended: its video may be the next to expire."""
        self._wake.set()

    async def delete(self, job_id: str) -> None:
        """Remove an ended job's video, its prompt and its file names."""
        await _remove(self._files, job_id, lambda: self._store.delete(job_id, self._clock()))

    async def run(self) -> None:
        while True:
            wait_s = _LOOK_EVERY_S
            try:
                if n_expired := await expire(self._store, self._files, self._clock()):
                    log.info("%d videos expired", n_expired)
                if (next_in_s := await self._store.next_expiry_in_s()) is not None:
                    wait_s = min(wait_s, max(0.05, next_in_s))
                await self._keeping.save()
            except Exception:
                log.exception("expiring failed; trying again")
            await set_within(self._wake, wait_s)
            self._wake.clear()

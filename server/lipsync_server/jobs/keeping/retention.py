"""Removes expired videos, old records of jobs, and every other file that no job needs.

A video is kept until a grace period after it was collected, and for at most `result_ttl_s` seconds, by the keeping
clock. A finished video is removed only when its time has passed or its owner deletes it: a video without a record gets
a new record (restore.py). Knows store and files. Does not know HTTP.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from lipsync_server.errors import Conflict, DiskFull, NotFound
from lipsync_server.jobs.database.store import Store
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.keeping.keeping_clock import KeepingClock
from lipsync_server.jobs.keeping.restore import restore_videos
from lipsync_server.jobs.model import Job, State
from lipsync_server.jobs.watch import set_within

log = logging.getLogger(__name__)

RECORD_TTL_S = 30 * 86400.0
_POLL_INTERVAL_S = 60.0


async def sweep_leftovers(store: Store, files: JobFiles, *, keep_s: float) -> None:
    """At start, before the server accepts requests: remove unfinished uploads and files that no job needs.

    keep_s: how long a video without a record is kept from now on, in seconds.
    """
    await restore_videos(store, files, keep_s=keep_s)

    # A video whose record could not be restored is kept until a person has checked it.
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
    """Remove the expired videos; returns how many. now: the time for their records, in seconds since the epoch."""
    expired = await store.expired()
    for job_id in expired:
        await _remove(files, job_id, partial(store.purge, job_id, now))
    await store.forget_older_than(RECORD_TTL_S)
    return len(expired)


async def _remove(files: JobFiles, job_id: str, write: Callable[[], Awaitable[Job]]) -> None:
    """Remove a job's files after `write` has recorded that; on a full disk before, to make room for the record."""
    try:
        # Record first: a record must never promise a video that is gone.
        await write()
    except sqlite3.OperationalError as error:
        log.warning("the database cannot be written (%s): job %s's files are removed first", error, job_id)
        await asyncio.to_thread(files.remove, job_id)
        if await asyncio.to_thread(files.folder(job_id).exists):
            raise  # the disk is read-only or away, and not full
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
    """The task that removes expired videos, and the two requests that end a video's time early: collect and delete."""

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
        self._downloaded: set[str] = set()
        """Videos that were downloaded while the database could not be written; `run` marks them as collected."""

    async def collect(self, job_id: str) -> Job:
        """Mark the video as collected, so that it is kept for the grace period only. A second call has no effect."""
        job = await self._store.collect(job_id, now=self._clock(), keep_s=self._grace_s)
        self._wake.set()
        return job

    async def downloaded(self, job_id: str) -> None:
        """Mark the video as collected after its download. On a full disk the mark is made as soon as it can be."""
        try:
            await self.collect(job_id)
        except sqlite3.OperationalError as error:
            log.warning("the database cannot be written (%s): job %s counts as collected once it can", error, job_id)
            self._downloaded.add(job_id)

    def wake(self) -> None:
        """Compute the next expiry again, because a job has ended."""
        self._wake.set()

    async def delete(self, job_id: str) -> None:
        """Remove an ended job's video, its prompt and its file names."""
        await _remove(self._files, job_id, lambda: self._store.delete(job_id, self._clock()))

    async def run(self) -> None:
        """Remove videos when they expire, and save the keeping clock at intervals, until cancelled."""
        while True:
            wait_s = _POLL_INTERVAL_S
            try:
                if n_expired := await expire(self._store, self._files, self._clock()):
                    log.info("%d videos expired", n_expired)
                for job_id in tuple(self._downloaded):
                    with suppress(Conflict, NotFound):  # the job was deleted meanwhile
                        await self.collect(job_id)
                    self._downloaded.discard(job_id)
                if (next_in_s := await self._store.next_expiry_in_s()) is not None:
                    wait_s = min(wait_s, max(0.05, next_in_s))
                await self._keeping.save()
            except Exception:  # a full disk or a spoilt record must not end the task
                log.exception("expiring failed; trying again")
            await set_within(self._wake, wait_s)
            self._wake.clear()

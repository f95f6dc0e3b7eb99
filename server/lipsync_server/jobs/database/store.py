"""Stores jobs in SQLite: every change of a job's state is one transaction in this module.

The transaction that ends a job also writes its callback, and one for each webhook, to the outbox table, so that none is
lost. A row that cannot be read is treated as a failed job (records.py) and does not affect other jobs. Knows the
records of model.py and their tables. Does not know files, workers, engines or HTTP.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lipsync_server.engines.ask import Ask
from lipsync_server.errors import Conflict, NotFound, QueueFull
from lipsync_server.jobs.database.connection import Database
from lipsync_server.jobs.database.queries import Queries
from lipsync_server.jobs.database.records import insert_job, is_readable, job_of, read_job, stand_in, write_job
from lipsync_server.jobs.database.webhooks import announce_end
from lipsync_server.jobs.model import CostRecord, Failure, Job, State, is_job_id
from lipsync_server.workers.task import RenderOutcome


@dataclass(frozen=True)
class Idempotency:
    """An Idempotency-Key of one owner and the fingerprint of the request that used it."""

    owner: str
    key: str
    fingerprint: str


class Store(Queries):
    """Reads and changes jobs. callback_body: makes the body of a callback from the ended job."""

    def __init__(self, database: Database, callback_body: Callable[[Job], bytes], keeping: Callable[[], float]) -> None:
        super().__init__(database, keeping)
        self._callback_body = callback_body

    # Changing

    async def add(self, job: Job, *, max_open: int, key: Idempotency | None) -> None:
        """Add a queued job. Raises QueueFull when `max_open` jobs are already queued or running."""
        async with self._db.transaction() as db:
            (row,) = await db.execute_fetchall("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
            if row[0] >= max_open:
                raise QueueFull(f"{row[0]} jobs are waiting or running already. Try again a little later.")
            await insert_job(db, job)
            if key is not None:
                try:
                    await db.execute(
                        "INSERT INTO idempotency VALUES (?, ?, ?, ?)", (key.owner, key.key, key.fingerprint, job.id)
                    )
                except sqlite3.IntegrityError as error:
                    raise Conflict("Another request with this Idempotency-Key is being processed.") from error

    async def restore(self, job: Job) -> None:
        """Write a record in place of a lost or unreadable one."""
        async with self._db.transaction() as db:
            await db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
            await insert_job(db, job)

    async def mend(self, now: float) -> list[Job]:
        """End every unfinished job whose record cannot be read; returns the ended jobs.

        Rows whose id is not of this server's form are removed, because no file can belong to them.
        """
        mended = []
        async with self._db.transaction() as db:
            for row in list(await db.execute_fetchall("SELECT * FROM jobs WHERE state IN ('queued', 'running')")):
                if is_readable(row):
                    continue
                if not is_job_id(str(row["id"])):
                    await db.execute("DELETE FROM jobs WHERE id = ?", (row["id"],))
                    continue
                job = replace(stand_in(row), finished_at=now, ended_on_clock=self._keeping())
                await write_job(db, job)
                mended.append(job)
            rows = list(await db.execute_fetchall("SELECT id FROM jobs WHERE state NOT IN ('queued', 'running')"))
            for row in rows:
                if not is_job_id(str(row[0])):
                    await db.execute("DELETE FROM jobs WHERE id = ?", (row[0],))
        return mended

    async def take(
        self, engines: dict[str, str], now: float, *, node: str = "", anywhere_else: Callable[[Job], bool] = bool
    ) -> Job | None:
        """Start the oldest queued job that requests a key of `engines`, which maps requested names to engines.

        A job that failed on machine `node` is not started there again while `anywhere_else` finds another machine.
        Raises UnreadableRecord for a row that mend() has to end first.
        """
        marks = ", ".join("?" * len(engines))
        async with self._db.transaction() as db:
            # Most jobs have failed nowhere, so one query finds them; the few others are checked one by one.
            rows = await db.execute_fetchall(
                f"SELECT * FROM jobs WHERE state = 'queued' AND wanted_engine IN ({marks})"  # noqa: S608 - question marks only
                " AND (failed_on = '[]' OR instr(failed_on, ?) = 0) ORDER BY id LIMIT 1",
                (*engines, json.dumps(node, ensure_ascii=False)),
            )
            jobs = [job_of(row) for row in rows]
            if node:
                again = await db.execute_fetchall(
                    f"SELECT * FROM jobs WHERE state = 'queued' AND wanted_engine IN ({marks})"  # noqa: S608 - question marks only
                    " AND failed_on != '[]' AND instr(failed_on, ?) > 0 ORDER BY id",
                    (*engines, json.dumps(node, ensure_ascii=False)),
                )
                jobs += [job for job in map(job_of, again) if not anywhere_else(job)]
            if not jobs:
                return None
            job = min(jobs, key=lambda job: job.id)
            job = replace(
                job,
                state="running",
                engine=engines[job.spec.engine],
                started_at=now,
                attempts=job.attempts + 1,
                stage="load",
            )
            await write_job(db, job)
        return job

    async def progress(self, job_id: str, *, stage: str, fraction: float) -> None:
        """Store the progress of a running job."""
        async with self._db.transaction() as db:
            await db.execute(
                "UPDATE jobs SET stage = ?, fraction = ? WHERE id = ? AND state = 'running'", (stage, fraction, job_id)
            )

    async def requeue(self, job_id: str, *, worker_s: float, crashed: bool, failed_on: str = "") -> Job:
        """Return a running job to the queue. The job keeps its place, its files and its resume point.

        failed_on: the machine that failed the job, if one did.
        """

        def back(job: Job) -> Job:
            is_new = failed_on and failed_on not in job.failed_on
            return replace(
                job,
                state="queued",
                stage="queued",
                outcome=None,
                worker_s=job.worker_s + worker_s,
                n_crashes=job.n_crashes + crashed,
                failed_on=(*job.failed_on, failed_on) if is_new else job.failed_on,
            )

        return await self._change(job_id, ("running",), back)

    async def rendered(self, job_id: str, outcome: RenderOutcome, *, worker_s: float) -> Job:
        """Record that the video of a running job is finished and only has to be copied to LIPSYNC_STORE."""

        def note(job: Job) -> Job:
            return replace(job, outcome=outcome, stage="store", fraction=1.0, worker_s=job.worker_s + worker_s)

        return await self._change(job_id, ("running",), note)

    async def succeed(self, job_id: str, outcome: RenderOutcome, *, now: float, keep_s: float, ending: "Ending") -> Job:
        """End a running job as succeeded. Its video is kept for `keep_s` seconds."""

        def done(job: Job) -> Job:
            job = self._ended(job, "succeeded", now, ending)
            return replace(
                job,
                outcome=outcome,
                stage="done",
                fraction=1.0,
                expires_at=now + keep_s,
                keep_until=self._keeping() + keep_s,
            )

        return await self._change(job_id, ("running",), done)

    async def fail(self, job_id: str, failure: Failure, *, now: float, ending: "Ending") -> Job:
        """End a queued or running job as failed."""
        return await self._change(
            job_id, ("queued", "running"), lambda job: replace(self._ended(job, "failed", now, ending), failure=failure)
        )

    async def cancel(self, job_id: str, *, now: float, ending: "Ending") -> Job:
        """End a queued or running job as cancelled."""
        return await self._change(job_id, ("queued", "running"), lambda job: self._ended(job, "cancelled", now, ending))

    async def request_cancel(self, job_id: str, now: float) -> Job:
        """Cancel a queued job at once, record the request for a running one. Raises Conflict when the job has ended."""

        def wish(job: Job) -> Job:
            if job.state == "queued":
                return self._ended(job, "cancelled", now, Ending())
            return replace(job, cancel_requested=True)

        return await self._change(job_id, ("queued", "running"), wish)

    async def collect(self, job_id: str, *, now: float, keep_s: float) -> Job:
        """Mark a video as collected: it is kept for at most `keep_s` more seconds.

        Only the first call counts. A call never extends the time for which the video is kept."""

        def mark(job: Job) -> Job:
            if job.collected_at is not None:
                return job
            keep_until = self._keeping() + keep_s
            return replace(
                job,
                collected_at=now,
                expires_at=min(job.expires_at or now + keep_s, now + keep_s),
                keep_until=keep_until if job.keep_until is None else min(job.keep_until, keep_until),
            )

        return await self._change(job_id, ("succeeded",), mark)

    async def purge(self, job_id: str, now: float) -> Job:
        """Record that the files of an ended job are removed, or will be removed next."""
        return await self._change(
            job_id, ("succeeded", "failed", "cancelled"), lambda job: replace(job, purged_at=job.purged_at or now)
        )

    async def delete(self, job_id: str, now: float) -> Job:
        """Erase the content of an ended job. An empty record remains, so that requests for the job are answered 410."""

        def forget(job: Job) -> Job:
            spec = replace(job.spec, ask=Ask(), image_name="", audio_name="", second_audio_name=None, file_name="")
            return replace(job, spec=spec, deleted=True, purged_at=job.purged_at or now)

        return await self._change(job_id, ("succeeded", "failed", "cancelled"), forget)

    async def forget_older_than(self, age_s: float) -> int:
        """Delete the records of jobs without files that ended more than so many seconds ago; returns how many."""
        async with self._db.transaction() as db:
            cursor = await db.execute(
                "DELETE FROM jobs WHERE ended_on_clock < ? AND (state != 'succeeded' OR purged_at IS NOT NULL)"
                " AND state NOT IN ('queued', 'running')",
                (self._keeping() - age_s,),
            )
            return cursor.rowcount

    async def _change(self, job_id: str, states: Iterable[State], change: Callable[[Job], Job]) -> Job:
        """Apply `change` to a job in one transaction, and announce its end if the change ends it.

        Raises NotFound, and Conflict unless the job is in one of `states`.
        """
        async with self._db.transaction() as db:
            rows = list(await db.execute_fetchall("SELECT * FROM jobs WHERE id = ?", (job_id,)))
            if not rows:
                raise NotFound(f"There is no job {job_id} on this server.")
            before = read_job(rows[0])
            if before.state not in states:
                raise Conflict(f"The job is {before.state}; this is possible only while it is {' or '.join(states)}.")
            job = change(before)
            await write_job(db, job)
            if job.final and not before.final:
                await announce_end(db, job, self._callback_body)
        return job

    def _ended(self, job: Job, state: State, now: float, ending: "Ending") -> Job:
        """`job` in the final `state`, with the figures of its end and its cost."""
        worker_s = job.worker_s + ending.worker_s
        cost = None if ending.price_per_hour is None else CostRecord(worker_s, ending.price_per_hour, ending.currency)
        return replace(
            job,
            state=state,
            finished_at=now,
            ended_on_clock=self._keeping(),
            worker_s=worker_s,
            stage_s=ending.stage_s or job.stage_s,
            cost=cost,
            stored=ending.stored,
        )


@dataclass(frozen=True)
class Ending:
    """Figures of the final attempt that are stored with a job's end.

    They are worker seconds, seconds per stage, price, and the address of the copy in LIPSYNC_STORE."""

    worker_s: float = 0.0
    stage_s: dict[str, float] | None = None
    price_per_hour: float | None = None
    currency: str = ""
    stored: str | None = None

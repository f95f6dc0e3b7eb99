"""Run an attempt of a job to its end: render, copy to LIPSYNC_STORE, and record the end in every case.

The queue starts an attempt. This module records one of four ends in the store: succeeded, failed, cancelled, or back to
the queue because the machine failed and not the job. Knows the store, the planner, the files and the machines. Does not
know which job is next.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from lipsync_server.errors import Cancelled, Conflict, LipsyncError, NodeLost, WorkerCrashed
from lipsync_server.jobs.database.store import Ending, Store
from lipsync_server.jobs.delivery.handover import Stopped, unless_stopped
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.model import Failure, Job
from lipsync_server.jobs.running.attempt import RunningJob, attempt
from lipsync_server.jobs.running.forecast import Speeds
from lipsync_server.jobs.running.machines import MAX_MACHINES, Machines, is_of_the_machine
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.jobs.watch import Watch
from lipsync_server.settings import Settings
from lipsync_server.workers.base import Worker
from lipsync_server.workers.task import RenderOutcome

log = logging.getLogger(__name__)

AfterRender = Callable[[Job, Path], Awaitable[str | None]]
"""A step between the finished file and "succeeded": copies the video and returns the address of the copy."""

WasAway = Callable[[float], Awaitable[bool]]
"""Returns whether the data folder's volume was away after a time of the monotonic clock. Waits until it is back."""

_N_CRASHES_ALLOWED = 1
MAX_ATTEMPTS = 40
"""The largest number of starts of one job.

A job is started again after its server was killed or its machine was lost, because the job is not the cause. The limit
stops a job that crashes every machine.
"""
_REMOVED = (
    "The files of this job are no longer in the server's data folder: somebody removed them by hand before the job "
    "ended. Send the job again."
)
_WRITE_EVERY_S = 15.0
_WRITE_AGAIN_S = 5.0


async def never_away(since: float) -> bool:
    """The WasAway for a data folder without a VolumeWatch."""
    return False


class Finisher:
    """Runs attempts to their end. give_back: called with a worker that is free again. speeds: updated at success."""

    def __init__(
        self,
        *,
        store: Store,
        files: JobFiles,
        planner: Planner,
        machines: Machines,
        watch: Watch,
        speeds: Speeds,
        settings: Settings,
        after_render: AfterRender | None,
        on_end: Callable[[Job], None],
        was_away: WasAway,
        give_back: Callable[[Worker], None],
        clock: Callable[[], float],
    ) -> None:
        self.stopping = False
        """Set when the server stops: running jobs go back to the queue."""
        self.stop_copies = asyncio.Event()
        self._store, self._files, self._planner, self._machines = store, files, planner, machines
        self._watch, self._speeds, self._settings = watch, speeds, settings
        self._after_render, self._on_end, self._release, self._clock = after_render, on_end, give_back, clock
        self._was_away = was_away
        self._notes: set[asyncio.Future[None]] = set()

    async def run(self, job: Job, running: RunningJob) -> None:
        """Render a started job, copy its video to LIPSYNC_STORE and record how the job ended."""
        node = running.worker.node if running.worker is not None else ""
        try:
            outcome = await self._render(job, running)
            self._machines.succeeded(node)
            stored = await self._hand_over(job, running, outcome)
            await self._succeed(job, outcome, replace(self._ending(running), stored=stored))
        except Stopped:
            log.info("the server stops during the copy; the next start repeats it", extra={"job_id": job.id})
        except asyncio.CancelledError:
            if running.worker is not None:
                await self._store.requeue(job.id, worker_s=running.worker_s, crashed=False)
            raise
        except Cancelled:
            await self._cancelled(job, running)
        except (LipsyncError, OSError) as error:
            if running.cancel.is_set() and isinstance(error, WorkerCrashed):
                await self._cancelled(job, running)
            elif job.attempts < MAX_ATTEMPTS and await self._was_away(running.began):
                log.warning("back to the queue: the data folder was away (%s)", error, extra={"job_id": job.id})
                await self._settle(
                    job.id, lambda: self._store.requeue(job.id, worker_s=running.worker_s, crashed=False)
                )
            elif not await asyncio.to_thread(self._files.has_picture, job.id):
                log.error("the files of this job were removed: %s", error, extra={"job_id": job.id})
                await self.fail(job, LipsyncError(_REMOVED), self._ending(running))
            elif isinstance(error, LipsyncError):
                await self._try_elsewhere_or_fail(job, running, error, node)
            else:
                await self._fail_unforeseen(job, running)
        except Exception:  # a fault of ours must end this job with a reason, and no other job
            await self._fail_unforeseen(job, running)

    async def _fail_unforeseen(self, job: Job, running: RunningJob) -> None:
        """End the job as failed after an exception that nobody expected; the log has its stack trace."""
        log.exception("rendering failed", extra={"job_id": job.id})
        unknown = LipsyncError(f"The server could not render this job; its log says why under job id {job.id}.")
        await self.fail(job, unknown, self._ending(running))

    def give_back(self, running: RunningJob) -> None:
        """Release the worker of a running job, if it still has one."""
        worker, running.worker = running.worker, None
        if worker is not None:
            self._release(worker)

    async def fail(self, job: Job, error: LipsyncError, ending: Ending | None = None) -> None:
        """Record that the job failed with `error`, and do everything that follows its end."""
        log.warning("job failed: %s", error.detail, extra={"job_id": job.id, "code": error.code})
        failure = Failure(error.code, error.title, error.public_detail, error.status)
        ending = ending or Ending()
        await self._settle(job.id, lambda: self._store.fail(job.id, failure, now=self._clock(), ending=ending))

    async def ended(self, job: Job) -> None:
        """After the end is recorded: remove files that are no longer needed, wake requests that wait for the job."""
        clean = self._files.keep_only_video if job.state == "succeeded" else self._files.remove
        try:
            await asyncio.to_thread(clean, job.id)
        except OSError as error:
            log.warning("files are left until the next start: %s", error, extra={"job_id": job.id})
        log.info("job %s", job.state, extra={"job_id": job.id, "worker_s": round(job.worker_s, 3)})
        self._on_end(job)
        self._watch.changed(job.id)

    async def _render(self, job: Job, running: RunningJob) -> RenderOutcome:
        # A job already has its outcome when only the copy to LIPSYNC_STORE was interrupted.
        if running.worker is None and job.outcome is not None:
            return job.outcome
        task = await self._planner.task(job, self._files)
        return await attempt(
            task, running, limit_s=self._settings.job_timeout_s, on_progress=self._progress_writer(job.id)
        )

    async def _try_elsewhere_or_fail(self, job: Job, running: RunningJob, error: LipsyncError, node: str) -> None:
        """Return a job to the queue after a failure of its machine, or end it with the reason."""
        worker_s = running.worker_s
        failed_on = {*job.failed_on, node} - {""}
        by_the_machine = bool(node) and is_of_the_machine(error)
        elsewhere = (
            by_the_machine
            and len(failed_on) <= MAX_MACHINES
            and job.attempts < MAX_ATTEMPTS
            and self._machines.can_run_elsewhere(job.spec.engine, failed_on)
        )
        if elsewhere and not self.stopping:
            self._machines.failed(node, error)
            log.warning("to another machine than %s: %s", node, error.detail, extra={"job_id": job.id})
            await self._settle(
                job.id, lambda: self._store.requeue(job.id, worker_s=worker_s, crashed=False, failed_on=node)
            )
        elif isinstance(error, WorkerCrashed) and self._may_retry(job, error):
            log.warning("back to the queue: %s", error.detail, extra={"job_id": job.id})
            crashed = not self.stopping and not isinstance(error, NodeLost)
            failing = node if crashed else ""
            await self._settle(
                job.id, lambda: self._store.requeue(job.id, worker_s=worker_s, crashed=crashed, failed_on=failing)
            )
        else:
            if by_the_machine:
                self._machines.forgive(failed_on)
            await self.fail(job, error, self._ending(running))

    def _may_retry(self, job: Job, error: WorkerCrashed) -> bool:
        """Whether the job may start again after its worker was lost or crashed."""
        if isinstance(error, NodeLost):
            return self.stopping or job.attempts < MAX_ATTEMPTS
        return self.stopping or job.n_crashes < _N_CRASHES_ALLOWED

    async def _hand_over(self, job: Job, running: RunningJob, outcome: RenderOutcome) -> str | None:
        """Record the outcome, release the worker, and copy the finished video to LIPSYNC_STORE."""
        if self._after_render is None:
            return None
        running.enter("store")
        if running.worker is not None:
            job = await self._written(job.id, lambda: self._store.rendered(job.id, outcome, worker_s=running.worker_s))
            self.give_back(running)
        self._watch.changed(job.id)
        copying = self._after_render(job, self._files.video(job.id))
        return await unless_stopped(copying, cancel=running.cancel, stop=self.stop_copies)

    async def _succeed(self, job: Job, outcome: RenderOutcome, ending: Ending) -> None:
        stage_s = {**outcome.stage_s, "store": (ending.stage_s or {}).get("store", 0.0)}
        ending = replace(ending, stage_s=stage_s)
        now, keep_s = self._clock(), self._settings.result_ttl_s
        if outcome.duration_s > 0 and outcome.render_s > 0:
            # The speed of one attempt, because most jobs have one only.
            self._speeds.learn(job.engine, outcome.render_s / outcome.duration_s / max(1, len(outcome.attempts)))
        await self._settle(job.id, lambda: self._store.succeed(job.id, outcome, now=now, keep_s=keep_s, ending=ending))

    async def _cancelled(self, job: Job, running: RunningJob) -> None:
        await self._settle(job.id, lambda: self._store.cancel(job.id, now=self._clock(), ending=self._ending(running)))

    async def _settle(self, job_id: str, change: Callable[[], Awaitable[Job]]) -> None:
        """Write `change` to the store, and do everything that follows if the job has ended by it."""
        job = await self._written(job_id, change)
        if job.final:
            await self.ended(job)

    async def _written(self, job_id: str, change: Callable[[], Awaitable[Job]]) -> Job:
        """Call `change` until it succeeds, also while the disk is full. Otherwise the job would keep its old state."""
        failed = False
        while True:
            try:
                return await change()
            except sqlite3.Error:
                failed = True
                log.exception("the database cannot be written; trying again")
                await asyncio.sleep(_WRITE_AGAIN_S)
            except Conflict:
                # A transaction that ended with an error of the disk may still have been written.
                if not failed:
                    raise
                return await self._store.get(job_id)

    def _ending(self, running: RunningJob) -> Ending:
        """The figures of the attempt so far, to be stored with the job's end."""
        return Ending(
            worker_s=running.worker_s,
            stage_s=running.timings(),
            price_per_hour=self._settings.price_per_hour,
            currency=self._settings.currency,
        )

    def _progress_writer(self, job_id: str) -> Callable[[RunningJob], None]:
        """A progress function that wakes waiting requests at every event and writes to the store at intervals."""
        written = time.monotonic()

        def on_progress(running: RunningJob) -> None:
            nonlocal written
            self._watch.changed(job_id)
            if time.monotonic() - written > _WRITE_EVERY_S:
                written = time.monotonic()
                progress = self._store.progress(job_id, stage=running.stage, fraction=running.fraction)
                note = asyncio.ensure_future(progress)
                self._notes.add(note)
                note.add_done_callback(self._notes.discard)

        return on_progress

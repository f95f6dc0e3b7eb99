"""Brings jobs to workers and sees every accepted job to its end.

Knows the store, the worker interface and the planner. Does not know HTTP, engines' insides or how a worker runs.
What is written down survives `kill -9`: at start every job found running goes back to the queue with its checkpoint.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from lipsync_server.errors import Cancelled, LipsyncError, NodeLost, QueueFull, WorkerCrashed
from lipsync_server.jobs.attempt import CANCEL_GRACE_S, Live, attempt
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.forecast import Forecast
from lipsync_server.jobs.handover import Stopped, unless_stopped
from lipsync_server.jobs.model import Failure, IdMaker, Job, JobSpec
from lipsync_server.jobs.plan import Planner
from lipsync_server.jobs.store import Ended, Idempotency, Store
from lipsync_server.jobs.watch import Watch
from lipsync_server.settings import Settings
from lipsync_server.workers.base import Executor, Worker
from lipsync_server.workers.task import RenderOutcome

log = logging.getLogger(__name__)

AfterRender = Callable[[Job, Path], Awaitable[str | None]]
"""A step between the finished file and "succeeded": hands the video over and returns where the copy lies."""

_N_CRASHES_ALLOWED = 1
# A server that is killed takes its worker along, and that is not the job's fault; but a job that brings the whole
# machine down must not do so for ever.
_N_ATTEMPTS_ALLOWED = 40
_WRITE_EVERY_S = 15.0


class JobQueue:
    """The scheduler. `start` recovers and begins, `close` finishes or re-queues what runs and stops the executor."""

    def __init__(
        self,
        *,
        store: Store,
        files: JobFiles,
        executor: Executor,
        planner: Planner,
        settings: Settings,
        after_render: AfterRender | None = None,
        on_end: Callable[[Job], None] = lambda job: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.files = files
        self.executor = executor
        self.planner = planner
        self.watch = Watch()
        self.stopping = False
        self._settings = settings
        self._after_render = after_render
        self._on_end = on_end
        self._clock = clock
        self._new_id = IdMaker(clock=clock)
        self._live: dict[str, Live] = {}
        self.forecast = Forecast(store, planner, self._live, self._n_workers, clock)
        self._work = asyncio.Event()
        self._stop_copies = asyncio.Event()
        self._idle_since = time.monotonic()
        self._scheduler: asyncio.Task[None] | None = None
        self._runs: set[asyncio.Task[None]] = set()
        self._notes: set[asyncio.Future[None]] = set()

    # Life

    async def start(self) -> None:
        self._new_id = IdMaker(await self.store.last_id(), self._clock)
        for engine, speed in await self.store.recent_speeds():
            self.forecast.speeds.learn(engine, speed)
        for job in await self.store.in_state("running"):
            await self._recover(job)
        await self.executor.start()
        self._scheduler = asyncio.create_task(self._schedule(), name="job scheduler")
        self._work.set()

    async def close(self) -> None:
        """Stop: running jobs get `shutdown_grace_s` to finish, then they go back to the queue."""
        if self.stopping:
            return
        self.stopping = True
        if self._scheduler is not None:
            self._scheduler.cancel()
            await asyncio.gather(self._scheduler, return_exceptions=True)
        if self._runs:
            log.info("waiting for %d running jobs", len(self._runs))
            await asyncio.wait(self._runs, timeout=self._settings.shutdown_grace_s)
        self._stop_copies.set()
        await self.executor.close()
        if self._runs:
            await asyncio.wait(self._runs, timeout=CANCEL_GRACE_S)
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        self.watch.wake_all()

    async def _recover(self, job: Job) -> None:
        if job.cancel_requested:
            await self._ended(await self.store.cancel(job.id, now=self._clock(), ended=Ended()))
        elif job.outcome is not None and await asyncio.to_thread(self.files.has_video, job.id, job.outcome.size_bytes):
            log.info("job was rendered when the server stopped: handing it over", extra={"job_id": job.id})
            self._begin(job, Live(None, job.engine, job.spec.duration_s, stage="store", fraction=1.0))
        elif job.attempts >= _N_ATTEMPTS_ALLOWED:
            error = WorkerCrashed(f"The server stopped {job.attempts} times while this job ran; it was given up.")
            await self._fail(job, error, Ended())
        else:
            log.info("job was running when the server stopped: back to the queue", extra={"job_id": job.id})
            await self.store.requeue(job.id, worker_s=0.0, crashed=False)

    # Taking in and letting go

    def new_id(self) -> str:
        return self._new_id()

    async def submit(self, job_id: str, spec: JobSpec, key: Idempotency | None) -> Job:
        """Take in a job whose inputs lie in its folder. Raises QueueFull with an estimate of when to try again."""
        if self.stopping:
            raise QueueFull("The server is stopping. Send the request again in a moment.", retry_after_s=10)
        job = Job(id=job_id, spec=spec, state="queued", created_at=self._clock())
        try:
            await self.store.add(job, max_open=self._max_open(), key=key)
        except QueueFull as error:
            error.retry_after_s = self.forecast.retry_after_s()
            raise
        self._work.set()
        log.info("job accepted", extra={"job_id": job_id, "engine": spec.engine, "duration_s": spec.duration_s})
        return job

    async def check_room(self) -> None:
        """Raise QueueFull when a job would not be taken in now; saves the caller the upload."""
        n_open = sum(await self.store.n_open())
        if n_open >= self._max_open():
            raise QueueFull(
                f"{n_open} jobs are waiting or running already. Try again a little later.",
                retry_after_s=self.forecast.retry_after_s(),
            )

    async def cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, ask a running one to stop; raises Conflict when it has ended."""
        job = await self.store.request_cancel(job_id, self._clock())
        if job.final:
            await self._ended(job)
        elif live := self._live.get(job_id):
            live.cancel.set()
        self.watch.changed(job_id)
        return job

    def wake(self) -> None:
        """Something has changed that a waiting job may have waited for: look at all of them again."""
        self._work.set()

    async def give_up_on(self, engine: str, error: LipsyncError) -> None:
        """Fail the queued jobs that asked for `engine` by name: it will not come."""
        for job in await self.store.in_state("queued"):
            if job.spec.engine == engine:
                await self._fail(job, error, Ended())

    async def wait_end(self, job_id: str) -> Job:
        """The job once it has ended; as it is when the server stops before."""
        with self.watch.subscribe(job_id) as changed:
            while True:
                changed.clear()
                job = await self.store.get(job_id)
                if job.final or self.stopping:
                    return job
                await changed.wait()

    # Looking

    def live(self, job_id: str) -> Live | None:
        return self._live.get(job_id)

    @property
    def idle_s(self) -> float:
        """Seconds since the last job ran; 0 while one runs."""
        return 0.0 if self._live else time.monotonic() - self._idle_since

    def _n_workers(self) -> int:
        return max(self._settings.workers, sum(worker.state != "dead" for worker in self.executor.workers()))

    def _max_open(self) -> int:
        return self._settings.max_queue + self._n_workers()

    # Scheduling

    async def _schedule(self) -> None:
        """Hand the oldest job that a free worker can do to it, for ever.

        A free worker that can do none of the waiting jobs is set aside, so that another worker's turn comes; new work
        brings it back.
        """
        aside: list[Worker] = []
        while True:
            try:
                self._work.clear()
                n_queued, _ = await self.store.n_open()
                if not n_queued:
                    self._release(aside)
                    await self._work.wait()
                elif (worker := await self._next_worker(bool(aside))) is None:
                    self._release(aside)
                elif not await self._dispatch(worker):
                    aside.append(worker)
            except Exception:
                # A full disk or a broken registry must not end the scheduling of a server that goes on answering.
                log.exception("scheduling failed; trying again")
                self._release(aside)
                await asyncio.sleep(1.0)

    async def _next_worker(self, any_aside: bool) -> Worker | None:
        """An idle worker; None when new work came first that one set aside may be able to do."""
        if not any_aside:
            return await self.executor.next_idle()
        idle = asyncio.create_task(self.executor.next_idle())
        work = asyncio.create_task(self._work.wait())
        try:
            await asyncio.wait({idle, work}, return_when=asyncio.FIRST_COMPLETED)
            return idle.result() if idle.done() else None
        finally:
            for task in (idle, work):
                task.cancel()
            await asyncio.gather(idle, work, return_exceptions=True)

    def _release(self, workers: list[Worker]) -> None:
        while workers:
            self.executor.release(workers.pop())

    async def _dispatch(self, worker: Worker) -> bool:
        """Start the next job that `worker` can do; False when there is none."""
        try:
            job = await self.store.take(await self.planner.runnable(worker.engines), self._clock())
        except BaseException:
            self.executor.release(worker)
            raise
        if job is None:
            return False
        log.info("job started", extra={"job_id": job.id, "engine": job.engine, "worker": worker.worker_id})
        # No await between the transaction and here: a cancel that comes now finds the job.
        self._begin(job, Live(worker, job.engine, job.spec.duration_s))
        return True

    def _begin(self, job: Job, live: Live) -> None:
        self._live[job.id] = live
        run = asyncio.create_task(self._run(job, live), name=f"job {job.id}")
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, job: Job, live: Live) -> None:
        self.watch.changed(job.id)
        try:
            await self._finish(job, live)
        finally:
            del self._live[job.id]
            self._idle_since = time.monotonic()
            self._give_back(live)
            self._work.set()
            self.watch.changed(job.id)

    def _give_back(self, live: Live) -> None:
        worker, live.worker = live.worker, None
        if worker is not None:
            self.executor.release(worker)

    async def _finish(self, job: Job, live: Live) -> None:
        """Render a started job, hand it over and write down how it ended, whatever happens."""
        try:
            # A job has its outcome already when only the handing over was interrupted.
            outcome = job.outcome if live.worker is None else None
            if outcome is None:
                task = await self.planner.task(job, self.files)
                outcome = await attempt(
                    task, live, limit_s=self._settings.job_timeout_s, on_progress=self._progress_writer(job.id)
                )
            stored = await self._hand_over(job, live, outcome)
        except Stopped:
            log.info("the next start hands it over", extra={"job_id": job.id})
        except asyncio.CancelledError:
            if live.worker is not None:
                await self.store.requeue(job.id, worker_s=live.worker_s, crashed=False)
            raise
        except Cancelled:
            await self._settle(lambda: self.store.cancel(job.id, now=self._clock(), ended=self._left(live)))
        except WorkerCrashed as error:
            if live.cancel.is_set():
                await self._settle(lambda: self.store.cancel(job.id, now=self._clock(), ended=self._left(live)))
            elif self._may_retry(job, error):
                log.warning("back to the queue: %s", error.detail, extra={"job_id": job.id})
                crashed = not self.stopping and not isinstance(error, NodeLost)
                await self._settle(lambda: self.store.requeue(job.id, worker_s=live.worker_s, crashed=crashed))
            else:
                await self._fail(job, error, self._left(live))
        except LipsyncError as error:
            await self._fail(job, error, self._left(live))
        except Exception:
            log.exception("rendering failed", extra={"job_id": job.id})
            unknown = LipsyncError(f"The server could not render this job; its log says why under job id {job.id}.")
            await self._fail(job, unknown, self._left(live))
        else:
            await self._succeed(job, outcome, replace(self._left(live), stored=stored))

    def _may_retry(self, job: Job, error: WorkerCrashed) -> bool:
        if isinstance(error, NodeLost):
            return self.stopping or job.attempts < _N_ATTEMPTS_ALLOWED
        return self.stopping or job.n_crashes < _N_CRASHES_ALLOWED

    async def _hand_over(self, job: Job, live: Live, outcome: RenderOutcome) -> str | None:
        """Give the worker back and the finished video away; what is rendered is written down first."""
        if self._after_render is None:
            return None
        live.enter("store")
        if live.worker is not None:
            job = await self._written(lambda: self.store.rendered(job.id, outcome, worker_s=live.worker_s))
            self._give_back(live)
        self.watch.changed(job.id)
        copying = self._after_render(job, self.files.video(job.id))
        return await unless_stopped(copying, cancel=live.cancel, stop=self._stop_copies)

    async def _succeed(self, job: Job, outcome: RenderOutcome, left: Ended) -> None:
        now = self._clock()
        stage_s = {**outcome.stage_s, "store": (left.stage_s or {}).get("store", 0.0)}
        left = replace(left, stage_s=stage_s)
        expires_at = now + self._settings.result_ttl_s
        self.forecast.speeds.learn(job.engine, outcome.render_s / outcome.duration_s)
        await self._settle(lambda: self.store.succeed(job.id, outcome, now=now, expires_at=expires_at, ended=left))

    async def _fail(self, job: Job, error: LipsyncError, left: Ended) -> None:
        log.warning("job failed: %s", error.detail, extra={"job_id": job.id, "code": error.code})
        failure = Failure(error.code, error.title, error.detail, error.status)
        await self._settle(lambda: self.store.fail(job.id, failure, now=self._clock(), ended=left))

    async def _settle(self, change: Callable[[], Awaitable[Job]]) -> None:
        job = await self._written(change)
        if job.final:
            await self._ended(job)

    async def _written(self, change: Callable[[], Awaitable[Job]]) -> Job:
        """Write something down, again and again while the disk refuses: the job must not stay as it was."""
        while True:
            try:
                return await change()
            except sqlite3.Error:
                log.exception("the database cannot be written; trying again")
                await asyncio.sleep(5.0)

    async def _ended(self, job: Job) -> None:
        """After the state is written: drop the files that are not needed any more, tell who waits."""
        clean = self.files.keep_only_video if job.state == "succeeded" else self.files.remove
        await asyncio.to_thread(clean, job.id)
        log.info("job %s", job.state, extra={"job_id": job.id, "worker_s": round(job.worker_s, 3)})
        self._on_end(job)
        self.watch.changed(job.id)

    def _left(self, live: Live) -> Ended:
        return Ended(
            worker_s=live.worker_s,
            stage_s=live.timings(),
            price_per_hour=self._settings.price_per_hour,
            currency=self._settings.currency,
        )

    def _progress_writer(self, job_id: str) -> Callable[[Live], None]:
        """Tells who waits at every event, writes down only now and then."""
        written = time.monotonic()

        def on_progress(live: Live) -> None:
            nonlocal written
            self.watch.changed(job_id)
            if time.monotonic() - written > _WRITE_EVERY_S:
                written = time.monotonic()
                note = asyncio.ensure_future(self.store.progress(job_id, stage=live.stage, fraction=live.fraction))
                self._notes.add(note)
                note.add_done_callback(self._notes.discard)

        return on_progress

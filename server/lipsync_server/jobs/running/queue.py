"""The queue: accepts jobs, assigns each to a worker that can render it, and cancels jobs.

Knows the store, the worker interface and the planner. Does not know HTTP, engines' insides, how a worker runs or how
an attempt ends (finish.py). Jobs survive `kill -9`: at start every job found running goes back to the queue with its
resume point.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

from lipsync_server.errors import EngineUnavailable, LipsyncError, QueueFull, WorkerCrashed
from lipsync_server.jobs.database.records import UnreadableRecord
from lipsync_server.jobs.database.store import Ending, Idempotency, Store
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.model import IdMaker, Job, JobSpec
from lipsync_server.jobs.running.attempt import CANCEL_GRACE_S, RunningJob
from lipsync_server.jobs.running.finish import MAX_ATTEMPTS, AfterRender, Finisher, WasAway, never_away
from lipsync_server.jobs.running.forecast import Forecast
from lipsync_server.jobs.running.machines import Machines
from lipsync_server.jobs.running.no_machine import NoMachine
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.jobs.watch import Watch
from lipsync_server.settings import Settings
from lipsync_server.workers.base import Executor, LoadState, OffersEngines, Worker, WorkerInfo

log = logging.getLogger(__name__)

_MACHINE_POLL_INTERVAL_S = 10.0


class JobQueue:
    """The scheduler. start() recovers jobs and begins; close() finishes or re-queues them and stops the executor."""

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
        was_away: WasAway = never_away,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.files = files
        self.executor = executor
        self.planner = planner
        self.watch = Watch()
        self.stopping = False
        self._settings = settings
        self._clock = clock
        self._new_id = IdMaker(clock=clock)
        self._running: dict[str, RunningJob] = {}
        self.forecast = Forecast(store, planner, self._running, self._n_workers, clock)
        self._machines = Machines(executor.workers, self._wake_in)
        self._finisher = Finisher(
            store=store,
            files=files,
            planner=planner,
            machines=self._machines,
            watch=self.watch,
            speeds=self.forecast.speeds,
            settings=settings,
            after_render=after_render,
            on_end=on_end,
            was_away=was_away,
            give_back=executor.release,
            clock=clock,
        )
        self._work = asyncio.Event()
        self._idle_since = time.monotonic()
        self._no_machine = NoMachine(settings.no_machine_timeout_s)
        self._tasks: list[asyncio.Task[None]] = []
        self._runs: set[asyncio.Task[None]] = set()

    # Life

    async def start(self) -> None:
        """Recover the jobs of the last run, start the executor and begin to schedule."""
        self._new_id = IdMaker(await self.store.last_id(), self._clock)
        for engine, speed in await self.store.recent_speeds():
            self.forecast.speeds.learn(engine, speed)
        await self._mend_records()
        for job in await self.store.in_state("running"):
            await self._recover(job)
        await self.executor.start()
        self._tasks.append(asyncio.create_task(self._schedule(), name="job scheduler"))
        if isinstance(self.executor, OffersEngines) and self._no_machine.limit_s:
            self._tasks.append(asyncio.create_task(self._end_stranded_jobs(), name="jobs without a machine"))
        self._work.set()

    async def close(self) -> None:
        """Stop the queue. Running jobs get `shutdown_grace_s` seconds to finish, then they return to the queue."""
        if self.stopping:
            return
        self.stopping = self._finisher.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runs:
            log.info("waiting for %d running jobs", len(self._runs))
            await asyncio.wait(self._runs, timeout=self._settings.shutdown_grace_s)
        self._finisher.stop_copies.set()
        await self.executor.close()
        if self._runs:
            await asyncio.wait(self._runs, timeout=CANCEL_GRACE_S)
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        self.watch.wake_all()

    async def _recover(self, job: Job) -> None:
        """Continue or end a job whose record says "running" although no worker has it."""
        if job.cancel_requested:
            await self._finisher.ended(await self.store.cancel(job.id, now=self._clock(), ending=Ending()))
        elif job.outcome is not None and await asyncio.to_thread(self.files.has_video, job.id, job.outcome.size_bytes):
            log.info("job was rendered when the server stopped: copying its video", extra={"job_id": job.id})
            self._begin(job, RunningJob(None, job.engine, job.spec.duration_s, stage="store", fraction=1.0))
        elif job.attempts >= MAX_ATTEMPTS:
            error = WorkerCrashed(f"The server stopped {job.attempts} times while this job ran; it was given up.")
            await self._finisher.fail(job, error)
        else:
            log.info("job was running when the server stopped: back to the queue", extra={"job_id": job.id})
            await self.store.requeue(job.id, worker_s=0.0, crashed=False)

    # Accepting and cancelling

    def new_id(self) -> str:
        """A new id, larger than all earlier ones."""
        return self._new_id()

    async def submit(self, job_id: str, spec: JobSpec, key: Idempotency | None) -> Job:
        """Accept a job whose inputs are in its folder. Raises QueueFull with an estimate of when to try again."""
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
        """Raise QueueFull when a job would be refused now, before the caller uploads files for nothing."""
        n_open = sum(await self.store.n_open())
        if n_open >= self._max_open():
            raise QueueFull(
                f"{n_open} jobs are waiting or running already. Try again a little later.",
                retry_after_s=self.forecast.retry_after_s(),
            )

    async def cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, or request the end of a running one. Raises Conflict when the job has ended."""
        job = await self.store.request_cancel(job_id, self._clock())
        if job.final:
            await self._finisher.ended(job)
        elif running := self._running.get(job_id):
            running.cancel.set()
        self.watch.changed(job_id)
        return job

    def wake(self) -> None:
        """Check all waiting jobs again, because an engine or a worker they wait for may be available now."""
        self._work.set()

    async def give_up_on(self, engine: str, error: LipsyncError) -> None:
        """Fail the queued jobs that requested `engine` by name, because it will not become available."""
        for job in await self.store.in_state("queued"):
            if job.spec.engine == engine:
                await self._finisher.fail(job, error)

    async def _give_up_on_unavailable(self) -> None:
        """Fail the queued jobs whose engine can no longer run here, for example because its weights were removed.

        In a cluster such a job waits: a machine that has its engine may join again (no_machine.py has the limit).
        """
        if isinstance(self.executor, OffersEngines):
            return
        for wanted in await self.store.waiting_by_engine():
            try:
                await self.planner.resolve(wanted)
            except EngineUnavailable as error:
                await self.give_up_on(wanted, error)

    async def _end_stranded_jobs(self) -> None:
        """Fail the waiting jobs of a cluster that no machine could run for too long; checks at intervals."""
        interval_s = min(_MACHINE_POLL_INTERVAL_S, self._no_machine.limit_s / 4)
        while True:
            try:
                waiting = {job.id: job for job in await self.store.in_state("queued")}
                engines = (info.engines for info in self.executor.workers() if info.state != "dead")
                runnable = await self.planner.runnable(frozenset[str]().union(*engines))
                wanted = {job_id: job.spec.engine for job_id, job in waiting.items()}
                for job_id in self._no_machine.expired(wanted, runnable.keys(), time.monotonic()):
                    await self._finisher.fail(waiting[job_id], self._no_machine.error(wanted[job_id]))
            except Exception:  # a full disk or a damaged record must not end the checks; the scheduler mends records
                log.exception("waiting jobs cannot be checked now; trying again")
            await asyncio.sleep(interval_s)

    async def _mend_records(self) -> None:
        """End every job whose record cannot be read."""
        for job in await self.store.mend(self._clock()):
            log.error("the record of this job cannot be read; it ends as failed", extra={"job_id": job.id})
            await self._finisher.ended(job)

    async def wait_end(self, job_id: str) -> Job:
        """Return the job once it has ended, or in its current state when the server stops."""
        with self.watch.subscribe(job_id) as changed:
            while True:
                changed.clear()
                job = await self.store.get(job_id)
                if job.final or self.stopping:
                    return job
                await changed.wait()

    # Reading

    def running_job(self, job_id: str) -> RunningJob | None:
        """The progress of a running job in memory, or None."""
        return self._running.get(job_id)

    def workers(self) -> list[WorkerInfo]:
        """The workers; workers of a machine that is set aside carry the reason."""
        return self._machines.workers()

    def load_state(self) -> LoadState:
        """The load state of the default engine; its detail names the machines that are set aside."""
        state, aside = self.executor.load_state(), self._machines.why_set_aside()
        return replace(state, detail=f"{state.detail} {aside}") if aside else state

    @property
    def idle_s(self) -> float:
        """Seconds since the last job ran; 0 while one runs."""
        return 0.0 if self._running else time.monotonic() - self._idle_since

    def _n_workers(self) -> int:
        return max(self._settings.workers, sum(worker.state != "dead" for worker in self.executor.workers()))

    def _max_open(self) -> int:
        return self._settings.max_queue + self._n_workers()

    # Scheduling

    async def _schedule(self) -> None:
        """The scheduling loop: give each free worker the oldest waiting job that it can render.

        A free worker that can render none of the waiting jobs is put aside, so that another free worker is tried; new
        work brings the worker back.
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
                    await self._give_up_on_unavailable()
            except UnreadableRecord:
                await self._mend_records()
            except (
                Exception
            ):  # a full disk or a broken registry must not end the loop, as the server still accepts jobs
                log.exception("scheduling failed; trying again")
                self._release(aside)
                await asyncio.sleep(1.0)
                await self._recover_lost()

    async def _recover_lost(self) -> None:
        """Return jobs to the queue whose record says "running" although no worker has them.

        A transaction that ended with an error of the disk may still have been written.
        """
        try:
            for job in await self.store.in_state("running"):
                if job.id not in self._running:
                    await self._recover(job)
        except (sqlite3.Error, LipsyncError) as error:
            log.warning("jobs cannot be read yet: %s", error)

    async def _next_worker(self, any_aside: bool) -> Worker | None:
        """Wait for an idle worker.

        Returns None if new work arrives first, which a worker that was put aside may be able to render.
        """
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
        """Start the oldest job that `worker` can render; False when there is none."""
        if self._machines.is_set_aside(worker.node):
            return False
        try:
            if self._is_hopeless(worker):
                await self._fail_all_waiting()
                self.executor.release(worker)
                return True
            job = await self.store.take(
                await self.planner.runnable(worker.engines),
                self._clock(),
                node=worker.node,
                anywhere_else=lambda job: self._machines.can_run_elsewhere(job.spec.engine, job.failed_on),
            )
        except BaseException:
            self.executor.release(worker)
            raise
        if job is None:
            return False
        log.info("job started", extra={"job_id": job.id, "engine": job.engine, "worker": worker.worker_id})
        # No await between the transaction and this line, so that a concurrent cancel() finds the job.
        self._begin(job, RunningJob(worker, job.engine, job.spec.duration_s))
        return True

    def _is_hopeless(self, worker: Worker) -> bool:
        """Whether next_idle() returned `worker` only because no worker can be started."""
        return any(info.worker_id == worker.worker_id and info.state == "dead" for info in self.executor.workers())

    async def _fail_all_waiting(self) -> None:
        """No worker can be started: fail all waiting jobs with the reason."""
        error = WorkerCrashed(self.executor.load_state().detail)
        for job in await self.store.in_state("queued"):
            await self._finisher.fail(job, error)

    def _wake_in(self, delay_s: float) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._work.set)

    def _begin(self, job: Job, running: RunningJob) -> None:
        self._running[job.id] = running
        run = asyncio.create_task(self._run(job, running), name=f"job {job.id}")
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, job: Job, running: RunningJob) -> None:
        self.watch.changed(job.id)
        try:
            await self._finisher.run(job, running)
        except Exception:  # the job's record was damaged while the job ran, so its end could not be recorded as usual
            log.exception("the end of this job could not be written", extra={"job_id": job.id})
            await self._mend_records()
        finally:
            del self._running[job.id]
            self._idle_since = time.monotonic()
            self._finisher.give_back(running)
            self._work.set()
            self.watch.changed(job.id)

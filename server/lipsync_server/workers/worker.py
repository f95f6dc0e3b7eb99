"""One worker and its successive processes: the life cycle that child processes and Ray actors share.

A worker renders one task at a time in a process that keeps engines loaded. That process may crash, hang, be killed or
lose its machine; the worker then starts another process, after a pause that grows with each failure. A `Link` (link.py)
is the connection to one such process. This module decides when a process counts as started, hanging or hopeless. Knows
neither pipes nor Ray, and no jobs.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from lipsync_server.errors import Cancelled, NodeLost, WorkerCrashed
from lipsync_server.workers import messages
from lipsync_server.workers.base import LoadState, WorkerInfo, WorkerState
from lipsync_server.workers.link import Limits, Link, LinkLost, WorkerOffer, within
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""A worker is hopeless after so many processes in a row that ended before they accepted a task. It is still retried."""
MAX_LOAD_CRASHES = 3
"""After so many processes in a row that ended while loading the default engine, the next one does not load it."""
_STAGES_OF_THE_ENGINE = ("load", "preprocess", "generate")
"""The stages of a render that need progress. The others wait for decoder processes, which have limits of their own."""
_PAUSES_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
"""Pauses before the next process starts, in seconds, by the number of failures in a row."""


@dataclass
class _Render:
    """The current render of a worker. settled: set when the process no longer works on it."""

    serial: int
    task: RenderTask
    cancelled: bool = False
    settled: bool = False


class EngineWorker:
    """A worker named `worker_id` on machine `node`. All methods belong to one event loop.

    make_link: makes the connection to a new process. place: the machine in messages, as in " on studio"; "" for this
    machine. changed: called at every change of state.
    """

    def __init__(
        self,
        worker_id: str,
        node: str,
        make_link: Callable[[], Link],
        *,
        limits: Limits,
        changed: Callable[[], None],
        place: str = "",
    ) -> None:
        self.worker_id, self.node = worker_id, node
        self.engines: frozenset[str] = frozenset()
        self.state: WorkerState = "starting"
        self.idle_since = time.monotonic()
        self._make_link, self._limits, self._place = make_link, limits, place
        self._changed = changed
        self._link: Link | None = None
        self._life: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._offer = WorkerOffer(frozenset(), "")
        self._engine = ""
        self._load_wanted = False
        self._loading: messages.Loading | None = None
        self._loading_since = self._load_moved_at = 0.0
        self._load_failure = ""
        self._render_now: _Render | None = None
        self._serial = 0
        self._working: asyncio.Task[RenderOutcome] | None = None
        self._n_failures = self._n_failed_starts = self._n_load_crashes = 0
        self._cause = ""
        self._end_cause = ""
        self._stopped = ""

    @property
    def hopeless(self) -> bool:
        """Whether every recent process ended before it accepted a task."""
        return self._n_failed_starts >= MAX_FAILED_STARTS

    def start(self) -> None:
        """Begin to run processes, one after the other."""
        self._life = asyncio.create_task(self._live(), name=f"worker {self.worker_id}")

    def stop(self, why: str) -> None:
        """End the process and start no other; a running render raises NodeLost. ended() waits for the end."""
        self._stopped = why
        if self._life is not None:
            self._life.cancel()
        if self._working is not None:
            self._working.cancel()
        self._set_state("dead")

    async def ended(self) -> None:
        """Wait until the process has ended, after `stop`."""
        if self._life is not None:
            await asyncio.gather(self._life, return_exceptions=True)

    def take_offer(self, offer: WorkerOffer) -> None:
        """Store a changed offer of engines, for example after a download of weights.

        The worker loads the new default once it is free, and after every restart.
        """
        self.engines, self._offer = offer.engines, offer
        self._load_failure = "" if offer.default else offer.why
        self._n_load_crashes = 0
        self._load_wanted = bool(offer.default)
        if self.state == "ready" and self._load_wanted:
            self._set_state("loading")
        self._news.set()

    async def render(self, task: RenderTask, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        """See base.Worker. If the wait is cancelled, the render is cancelled too, and a stubborn process is killed."""
        while self._is("loading"):
            await self._next_state()
        link = self._link
        if not self._is("ready") or link is None:
            raise self._not_running()
        self._serial += 1
        render = self._render_now = _Render(self._serial, task)
        self._set_state("busy")
        working = asyncio.create_task(self._work(link, render, on_progress), name=f"render {task.task_id}")
        self._working = working
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            if working.cancelled():
                raise self._not_running() from None
            # The caller no longer waits for the result: cancel the render, and kill the process if it does not stop.
            working.add_done_callback(_forget_result)
            self._cancel(render)
            raise

    def cancel(self, task_id: str) -> None:
        """See base.Worker."""
        if self._render_now is not None and self._render_now.task.task_id == task_id:
            self._cancel(self._render_now)

    def info(self) -> WorkerInfo:
        """The current state of this worker."""
        task_id = self._render_now.task.task_id if self._render_now is not None else None
        state, reason = self.state, ""
        if state == "dead":
            reason = self._stopped or self._cause
        elif self._load_failure:
            # A worker without any runnable engine is useless, however healthy its process is.
            state, reason = (state if self.engines else "dead"), self._load_failure
        return WorkerInfo(
            self.worker_id, self.node, self._engine, state, task_id, reason, self._offer.version, self.engines
        )

    def load_state(self) -> LoadState:
        """The load state of this worker's default engine."""
        if self._load_failure:
            return LoadState(False, "failed", 0.0, self._load_failure)
        if self.hopeless:
            return LoadState(False, "failed", 0.0, f"The worker{self._place} does not start: {self._cause}.")
        if self.state in ("ready", "busy") and self._offer.default:
            return LoadState(True, "ready", 1.0, f"{self._engine or self._offer.default} is loaded{self._place}.")
        loading = self._loading
        if self.state != "loading" or loading is None:
            failed = f" The last one ended: {self._cause}." if self._cause and self._n_failures else ""
            return LoadState(False, "starting", 0.0, f"The worker{self._place} is starting.{failed}")
        fraction = min(1.0, loading.done / loading.total) if loading.total > 0 else 0.0
        elapsed_s = time.monotonic() - self._loading_since
        seconds_left = elapsed_s * (1 - fraction) / fraction if fraction > 0 else None
        detail = f"Loading {loading.engine}{self._place}."
        return LoadState(False, "loading", fraction, detail, seconds_left=seconds_left)

    # One process after the other

    async def _live(self) -> None:
        """Run one process after the other, with growing pauses, until cancelled."""
        while True:
            self._set_state("starting")
            self._end_cause = ""
            was_loading = False
            try:
                self._cause = await self._live_once()
            except LinkLost as lost:
                self._cause = lost.cause
            except Exception as error:  # a fault of ours or of Ray must not end this worker for good
                log.exception("worker %s cannot be run", self.worker_id)
                self._cause = f"{type(error).__name__}: {error}"
            finally:
                was_loading = self._loading is not None
                self._loading, self._engine = None, ""
                self._set_state("dead")
                link, self._link = self._link, None
                if link is not None:
                    await asyncio.shield(link.kill())
            self._n_failures += 1
            if was_loading:
                self._count_load_crash()
            pause_s = _PAUSES_S[min(self._n_failures, len(_PAUSES_S)) - 1]
            log.error("worker %s died: %s; it starts again in %.1f s", self.worker_id, self._cause, pause_s)
            await asyncio.sleep(pause_s)

    async def _live_once(self) -> str:
        """Run one process from start to end; returns the cause of its end, or raises LinkLost with the cause."""
        link = self._link = self._make_link()
        self._n_failed_starts += 1  # until it has started
        try:
            offer = await within(self._limits.silence_s, link.start())
        except TimeoutError:
            raise await self._hangs(link, "it did not start") from None
        self._n_failed_starts = 0
        if offer != self._offer:
            self.take_offer(offer)
        else:
            # A new process does not load an engine that has failed to load; the next job that needs it tries again.
            self._load_wanted = bool(offer.default) and not self._load_failure
        dying = asyncio.create_task(link.ended())
        try:
            while not dying.done() and not self._end_cause:
                self._news.clear()
                if self._render_now is None:
                    if self._load_wanted:
                        self._load_wanted = False
                        await self._load(link, self._offer.default)
                        continue
                    self._set_state("ready")
                news = asyncio.create_task(self._news.wait())
                try:
                    await asyncio.wait({dying, news}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
            return self._end_cause or dying.result()
        finally:
            dying.cancel()
            await asyncio.gather(dying, return_exceptions=True)

    async def _load(self, link: Link, engine: str) -> None:
        """Load an engine in the process. Raises LinkLost when the process ends, or makes no progress for too long."""
        self._loading = messages.Loading(engine, "load", 0, 1)
        self._loading_since = self._load_moved_at = time.monotonic()
        self._set_state("loading")
        async with aclosing(self._heard(link, link.load(engine), f"loading {engine}")) as heard:
            async for message in heard:
                match message:
                    case messages.Loading():
                        if message != self._loading:
                            self._loading, self._load_moved_at = message, time.monotonic()
                            self._changed()
                    case messages.Loaded():
                        self._engine = message.engine
                        self._n_load_crashes = 0
                    case messages.LoadFailed():
                        self._load_failure = message.error.detail
                        log.error("engine %s could not be loaded%s: %s", engine, self._place, message.error.detail)
                if time.monotonic() - self._load_moved_at > self._limits.load_s:
                    raise LinkLost(f"loading {engine} made no progress for {self._limits.load_s:.0f} s")
        self._loading = None
        self._n_failures = 0

    async def _heard(
        self, link: Link, stream: AsyncGenerator[messages.FromWorker, None], doing: str
    ) -> AsyncGenerator[messages.FromWorker, None]:
        """Yield the messages of `stream`. Raises LinkLost when the process is silent for too long."""
        async with aclosing(stream):
            while True:
                try:
                    message = await within(self._limits.silence_s, anext(stream, None))
                except TimeoutError:
                    raise await self._hangs(link, f"it sent no message while {doing}") from None
                if message is None:
                    return
                yield message

    async def _hangs(self, link: Link, symptom: str) -> LinkLost:
        """The LinkLost for a silent process, with the likely reason."""
        known = await link.why_silent()
        return LinkLost(f"{symptom} for {self._limits.silence_s:.0f} s{': ' + known if known else ''}")

    def _count_load_crash(self) -> None:
        """Count a process that died while loading; after MAX_LOAD_CRASHES of them the engine is not loaded again."""
        self._n_load_crashes += 1
        if self._n_load_crashes >= MAX_LOAD_CRASHES:
            self._load_failure = (
                f"The worker{self._place} died {self._n_load_crashes} times while loading {self._offer.default}: "
                f"{self._cause}."
            )

    # Rendering

    async def _work(self, link: Link, render: _Render, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        """Render in the process of `link`. Raises the render's error, or the error of a lost process or machine."""
        progress: ProgressEvent | None = None
        moved_at = time.monotonic()
        try:
            async with aclosing(self._heard(link, link.render(render.serial, render.task), "rendering")) as heard:
                async for message in heard:
                    match message:
                        case messages.Progress():
                            if message.event != progress:
                                progress, moved_at = message.event, time.monotonic()
                            on_progress(message.event)
                        case messages.Finished():
                            self._note_end(render, message)
                            return message.outcome
                        case messages.Failed():
                            self._note_end(render, message)
                            raise message.error
                    is_engines = progress is not None and progress.stage in _STAGES_OF_THE_ENGINE
                    if is_engines and time.monotonic() - moved_at > self._limits.load_s:
                        raise LinkLost(f"the render made no progress for {self._limits.load_s:.0f} s")
            raise LinkLost("it stopped sending in the middle of a render")
        except Cancelled:
            render.settled = True
            raise
        except LinkLost as lost:
            self._end(link, lost.cause)
            if render.cancelled:
                raise Cancelled("The job was cancelled.") from None
            if self._stopped:
                raise self._not_running() from None
            if lost.machine_gone:
                raise NodeLost(f"The machine {self.node} was lost while rendering: {lost.cause}.") from None
            raise WorkerCrashed(f"The worker process{self._place} ended while rendering: {lost.cause}.") from None
        finally:
            if not render.settled:
                self._end(link, "a render broke off, and the process may still be busy with it")
            self._render_now = self._working = None
            self.idle_since = time.monotonic()
            if self._is("busy"):
                self._set_state("dead" if self._end_cause else "ready")
            self._news.set()

    def _note_end(self, render: _Render, message: messages.Finished | messages.Failed) -> None:
        """Record that the process no longer works on the render, and which engine it has loaded."""
        render.settled = True
        self._n_failures = 0
        self._engine = message.holds
        if message.holds and message.holds == self._offer.default:
            self._load_failure, self._n_load_crashes = "", 0

    def _cancel(self, render: _Render) -> None:
        """Request the end of the render, once, and kill the process if it does not stop within the grace time."""
        if render.cancelled or render is not self._render_now or self._link is None:
            return
        render.cancelled = True
        self._link.cancel(render.serial)
        asyncio.get_running_loop().call_later(self._limits.cancel_grace_s, self._end_if_still_at, render)

    def _end_if_still_at(self, render: _Render) -> None:
        if render is self._render_now:
            log.error("worker %s did not stop within %.0f s; it is killed", self.worker_id, self._limits.cancel_grace_s)
            self._end(self._link, "it ignored being cancelled")

    def _end(self, link: Link | None, cause: str) -> None:
        """Kill the process of `link`, unless another process has already replaced it."""
        if link is self._link and not self._end_cause:
            self._end_cause = cause
            self._news.set()

    def _not_running(self) -> WorkerCrashed:
        """The error for a task that was given to a worker without a process."""
        if self._stopped:
            return NodeLost(f"The worker{self._place} was stopped: {self._stopped}.")
        return WorkerCrashed(f"The worker{self._place} is not running: {self._cause or 'it is still starting'}.")

    async def _next_state(self) -> None:
        """Wait until the state changes."""
        before = self.state
        while self.state == before:  # noqa: ASYNC110 - a state has no event of its own; loading takes seconds
            await asyncio.sleep(0.05)

    def _is(self, state: WorkerState) -> bool:
        return self.state == state

    def _set_state(self, state: WorkerState) -> None:
        self.state = "dead" if self._stopped else state
        self._changed()


def _forget_result(task: "asyncio.Task[RenderOutcome]") -> None:
    """Read the error of a render without a caller, so that asyncio does not report it as unread."""
    if not task.cancelled():
        task.exception()

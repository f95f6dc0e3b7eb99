"""Runs engines in child processes of the server: started, watched, restarted; one task at a time each.

What a child says arrives in the event loop through its life (life.py), so the loop never blocks. torch is never
imported in the server.
"""

import asyncio
import logging
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.errors import Cancelled, EngineUnavailable, WorkerCrashed
from lipsync_server.settings import Settings
from lipsync_server.workers import log_lines, messages
from lipsync_server.workers.base import LoadState, Worker, WorkerInfo, WorkerState, furthest
from lipsync_server.workers.idle import IdleWorkers
from lipsync_server.workers.life import Died, Life, cause_of_death, child_environment
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

log = logging.getLogger(__name__)

MAX_LOAD_CRASHES = 3
_BACKOFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
_CANCEL_GRACE_S = 60.0


class ProcessExecutor:
    """`settings.workers` child processes on this machine. All methods belong to one event loop.

    registry: the engines that the children may hold; tests pass their own.
    """

    def __init__(self, settings: Settings, registry: Registry = ENGINES) -> None:
        self._settings, self._registry = settings, registry
        self._workers: list[ProcessWorker] = []
        self._idle = IdleWorkers(self._pick)
        self._default = ""
        self._unavailable = ""
        self._held_back = ""

    def hold_back(self, engine: str) -> None:
        """Before start(): do not choose `engine` until load_default(), whatever lies on disk."""
        self._held_back = engine

    async def start(self) -> None:
        await self._choose_default()
        available = await self._available()
        for index in range(self._settings.workers):
            worker = ProcessWorker(index, self._settings, self._registry, available, self._idle.changed)
            self._workers.append(worker)
            worker.start(self._default)

    async def load_default(self) -> None:
        """Choose the default engine again, because weights have arrived, and load it as workers become free."""
        self._held_back = ""
        await self._choose_default()
        available = await self._available()
        for worker in self._workers:
            worker.engines = available
            worker.load(self._default)

    async def next_idle(self) -> Worker:
        return await self._idle.next()

    def release(self, worker: Worker) -> None:
        self._idle.release(worker)

    def workers(self) -> list[WorkerInfo]:
        return [worker.info() for worker in self._workers]

    def load_state(self) -> LoadState:
        if self._unavailable:
            return LoadState(False, "failed", 0.0, self._unavailable)
        states = [worker.load_state() for worker in self._workers]
        return furthest(states) or LoadState(False, "starting", 0.0, "The worker is starting.")

    async def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        await asyncio.gather(*(worker.ended() for worker in self._workers))

    async def _available(self) -> frozenset[str]:
        infos = await asyncio.to_thread(self._registry.without(self._held_back).describe, self._settings)
        return frozenset(info.name for info in infos if info.available)

    async def _choose_default(self) -> None:
        if self._settings.engine == self._held_back:
            self._default = self._unavailable = ""
            return
        try:
            registry = self._registry.without(self._held_back)
            self._default, why = await asyncio.to_thread(registry.choose, self._settings)
        except EngineUnavailable as error:
            self._default, self._unavailable = "", error.detail
            log.error("%s", error.detail)
        else:
            self._unavailable = ""
            log.info("engine %s", why)

    def _pick(self) -> "ProcessWorker | None":
        free = [worker for worker in self._workers if worker not in self._idle]
        for worker in free:
            if worker.state == "ready":
                return worker
        # When no worker can be started at all, a task must fail with the reason instead of waiting forever.
        if free and all(worker.hopeless for worker in self._workers):
            return free[0]
        return None


@dataclass
class _Running:
    """The render that a worker is at."""

    serial: int
    task: RenderTask
    on_progress: Callable[[ProgressEvent], None]
    result: asyncio.Future[RenderOutcome]
    cancelled: bool = False


class ProcessWorker:
    """One child process through all of its lives. All methods belong to the event loop that called start()."""

    def __init__(
        self, index: int, settings: Settings, registry: Registry, engines: frozenset[str], changed: Callable[[], None]
    ) -> None:
        self.worker_id = f"process-{index}"
        self.engines = engines
        self.state: WorkerState = "starting"
        self._index, self._settings, self._registry, self._changed = index, settings, registry, changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._default = self._engine = ""
        self._life: Life | None = None
        self._respawn: asyncio.TimerHandle | None = None
        self._stopping = False
        self._running: _Running | None = None
        self._serial = 0
        self._deaths = self._load_crashes = 0
        self._death = ""
        self._load_failed = ""
        self._loading: messages.Loading | None = None
        self._loading_since = 0.0

    @property
    def hopeless(self) -> bool:
        """The child dies again and again before it takes a task."""
        return self.state == "dead" and self._deaths >= MAX_LOAD_CRASHES

    def start(self, default: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._default = default
        self._spawn()

    def load(self, default: str) -> None:
        """Load `default` once the child is free, and after every restart."""
        self._default, self._load_failed, self._load_crashes = default, "", 0
        if self.state in ("ready", "busy", "loading") and default:
            self._send(messages.Load(default))
            if self.state == "ready":
                self._set_state("loading")

    async def render(self, task: RenderTask, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        if self.state != "ready" or self._loop is None:
            raise WorkerCrashed(f"The worker is not running: {self._death or 'it is still starting'}.")
        self._serial += 1
        running = _Running(self._serial, task, on_progress, self._loop.create_future())
        self._running = running
        self._set_state("busy")
        self._send(messages.Render(running.serial, task))
        try:
            return await running.result
        except asyncio.CancelledError:
            self._cancel(running)
            raise

    def cancel(self, task_id: str) -> None:
        if self._running is not None and self._running.task.task_id == task_id:
            self._cancel(self._running)

    def info(self) -> WorkerInfo:
        task_id = self._running.task.task_id if self._running is not None else None
        return WorkerInfo(self.worker_id, platform.node(), self._engine, self.state, task_id)

    def load_state(self) -> LoadState:
        """How far the default engine is on this worker."""
        if self._load_failed:
            return LoadState(False, "failed", 0.0, self._load_failed)
        if self.hopeless:
            return LoadState(False, "failed", 0.0, f"The worker does not start: {self._death}.")
        if self.state == "busy" or (self.state == "ready" and self._engine):
            return LoadState(True, "ready", 1.0, f"{self._engine or self._default} is loaded.")
        loading = self._loading
        if self.state != "loading" or loading is None:
            return LoadState(False, "starting", 0.0, "The worker is starting.")
        fraction = min(1.0, loading.done / loading.total) if loading.total > 0 else 0.0
        elapsed_s = time.monotonic() - self._loading_since
        seconds_left = elapsed_s * (1 - fraction) / fraction if fraction > 0 else None
        return LoadState(False, "loading", fraction, f"Loading {loading.engine}.", seconds_left=seconds_left)

    def stop(self) -> None:
        """Kill the child; a running render raises WorkerCrashed. ended() waits for it."""
        self._stopping = True
        if self._respawn is not None:
            self._respawn.cancel()
        if self._life is not None:
            self._life.kill()
        self._fail_running("the server stopped it")
        self._set_state("dead")

    async def ended(self) -> None:
        if self._life is not None:
            await asyncio.to_thread(self._life.join)

    def _spawn(self) -> None:
        self._respawn = None
        assert self._loop is not None
        loop = self._loop
        setup = messages.Setup(self._settings.for_workers(), self._registry, tuple(sys.path))

        def post(life: Life, message: messages.FromWorker | Died) -> None:
            loop.call_soon_threadsafe(self._on_message, life, message)

        self._set_state("starting")
        self._life = Life(f"lipsync-{self.worker_id}", setup, child_environment(self._settings, self._index), post)
        self._life.start()

    def _on_message(self, life: Life, message: messages.FromWorker | Died) -> None:
        if life is not self._life:
            return
        match message:
            case messages.Started():
                self._set_state("ready")
                if self._default and not self._load_failed:
                    self._send(messages.Load(self._default))
                    self._set_state("loading")
            case messages.Loading():
                if self._loading is None:
                    self._loading_since = time.monotonic()
                self._loading = message
                if self._running is None:
                    self._set_state("loading")
            case messages.Loaded():
                self._loaded(message.engine)
            case messages.LoadFailed():
                self._load_failed = message.error.detail
                log.error("engine %s could not be loaded: %s", message.engine, message.error.detail)
                self._loaded("")
            case messages.Progress():
                if self._running is not None and self._running.serial == message.serial:
                    self._running.on_progress(message.event)
            case messages.Finished() | messages.Failed():
                self._finished(message)
            case messages.LogLine():
                log_lines.write(message)
            case Died():
                self._died(message)

    def _loaded(self, engine: str) -> None:
        self._loading, self._engine = None, engine
        self._deaths = self._load_crashes = 0
        if self._running is None:
            self._set_state("ready")

    def _finished(self, message: messages.Finished | messages.Failed) -> None:
        running = self._running
        if running is None or running.serial != message.serial:
            return
        self._running = None
        self._deaths = 0
        self._engine = message.holds
        if message.holds == self._default:
            self._load_failed = ""
        self._set_state("ready")
        if not running.result.done():
            if isinstance(message, messages.Finished):
                running.result.set_result(message.outcome)
            else:
                running.result.set_exception(message.error)

    def _died(self, died: "Died") -> None:
        self._death = cause_of_death(died.status)
        if self._stopping:
            return
        was_loading = self._loading is not None
        self._loading, self._engine = None, ""
        self._deaths += 1
        if was_loading:
            self._load_crashes += 1
            if self._load_crashes >= MAX_LOAD_CRASHES:
                self._load_failed = (
                    f"The worker died {self._load_crashes} times while loading {self._default}: {self._death}."
                )
        delay_s = _BACKOFF_S[min(self._deaths, len(_BACKOFF_S)) - 1]
        log.error("worker %s died: %s; it starts again in %.1f s", self.worker_id, self._death, delay_s)
        self._set_state("dead")
        self._fail_running(self._death)
        assert self._loop is not None
        self._respawn = self._loop.call_later(delay_s, self._spawn)

    def _fail_running(self, cause: str) -> None:
        running, self._running = self._running, None
        if running is None or running.result.done():
            return
        if running.cancelled:
            running.result.set_exception(Cancelled("The job was cancelled."))
        else:
            running.result.set_exception(WorkerCrashed(f"The worker process ended while rendering: {cause}."))

    def _cancel(self, running: _Running) -> None:
        if running.cancelled or running is not self._running or self._loop is None:
            return
        running.cancelled = True
        self._send(messages.Cancel(running.serial))
        self._loop.call_later(_CANCEL_GRACE_S, self._kill_if_still_at, running)

    def _kill_if_still_at(self, running: _Running) -> None:
        if running is self._running and self._life is not None:
            log.error("worker %s did not stop within %.0f s; it is killed", self.worker_id, _CANCEL_GRACE_S)
            self._life.kill()

    def _send(self, message: messages.ToWorker) -> None:
        if self._life is not None:
            self._life.send(message)

    def _set_state(self, state: WorkerState) -> None:
        self.state = state
        self._changed()

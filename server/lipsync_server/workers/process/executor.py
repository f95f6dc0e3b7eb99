"""Runs engines in child processes of this server, one task at a time in each.

A crash of an engine then ends a child and not the server, and the server never imports torch. child_process.py brings
a child's messages into the event loop, so that the loop never blocks. worker.py decides what happens when a process
crashes or hangs.
"""

import asyncio
import logging
import platform
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.errors import EngineUnavailable
from lipsync_server.settings import Settings
from lipsync_server.workers import log_lines, messages
from lipsync_server.workers.base import LoadState, Worker, WorkerInfo, furthest
from lipsync_server.workers.environment import child_environment
from lipsync_server.workers.idle import IdleWorkers
from lipsync_server.workers.link import Limits, LinkLost, WorkerOffer, within
from lipsync_server.workers.process.child_process import ChildProcess, Died, cause_of_death
from lipsync_server.workers.task import RenderTask
from lipsync_server.workers.worker import EngineWorker

log = logging.getLogger(__name__)

_KILL_S = 30.0
"""Time for the kernel to end a killed process. A process in a system call that never returns does not end at all."""


class ProcessExecutor:
    """`settings.workers` child processes on this machine. All methods belong to one event loop.

    registry: the engines that the children may load; tests pass their own.
    """

    def __init__(self, settings: Settings, registry: Registry = ENGINES) -> None:
        self._settings, self._registry = settings, registry
        self._limits = Limits.of(settings)
        self._workers: list[EngineWorker] = []
        self._idle = IdleWorkers(lambda: self._workers, lends_without_engines=True)
        self._offer = WorkerOffer(frozenset(), "")
        self._held_back = ""

    def hold_back(self, engine: str) -> None:
        """Call before start(): `engine` is not chosen before load_default(), whatever files exist."""
        self._held_back = engine

    async def start(self) -> None:
        self._offer = await self._find_engines()
        for index in range(self._settings.workers):
            self._workers.append(self._make_worker(index))
            self._workers[-1].start()

    async def load_default(self) -> None:
        """Choose the default engine again after weights were downloaded; workers load it as they become free."""
        self._held_back = ""
        self._offer = await self._find_engines()
        for worker in self._workers:
            worker.take_offer(self._offer)

    async def next_idle(self) -> Worker:
        return await self._idle.next()

    def release(self, worker: Worker) -> None:
        self._idle.release(worker)

    def workers(self) -> list[WorkerInfo]:
        return [worker.info() for worker in self._workers]

    def load_state(self) -> LoadState:
        if self._offer.why:
            return LoadState(False, "failed", 0.0, self._offer.why)
        states = [worker.load_state() for worker in self._workers]
        return furthest(states) or LoadState(False, "starting", 0.0, "The worker is starting.")

    async def close(self) -> None:
        for worker in self._workers:
            worker.stop("the server stopped it")
        await asyncio.gather(*(worker.ended() for worker in self._workers))

    def _make_worker(self, index: int) -> EngineWorker:
        name = f"process-{index}"

        def make_link() -> ChildLink:
            return ChildLink(name, index, self._settings, self._registry, lambda: self._offer, self._limits.silence_s)

        worker = EngineWorker(name, platform.node(), make_link, limits=self._limits, changed=self._idle.changed)
        worker.take_offer(self._offer)
        return worker

    async def _find_engines(self) -> WorkerOffer:
        """The engines that this machine can run. A weights volume that does not answer must not prevent the start."""
        try:
            async with asyncio.timeout(self._limits.silence_s):
                offer = await in_daemon_thread(self._choose)
        except TimeoutError:
            why = f"The weights folder {self._settings.weights_dir} does not answer; check its disk or network."
            offer = WorkerOffer(frozenset(), "", why)
        if offer.why:
            log.error("%s", offer.why)
        return offer

    def _choose(self) -> WorkerOffer:
        """`_find_engines` from the registry, which reads files and so may wait for a disk."""
        registry = self._registry.without(self._held_back)
        engines = frozenset(info.name for info in registry.describe(self._settings) if info.available)
        if self._settings.engine == self._held_back:
            return WorkerOffer(engines, "")
        try:
            default, reason = registry.choose(self._settings)
        except EngineUnavailable as error:
            return WorkerOffer(engines, "", error.detail)
        log.info("engine %s", reason)
        return WorkerOffer(engines, default)


class ChildLink:
    """The connection to one child process; see link.py."""

    def __init__(
        self,
        name: str,
        index: int,
        settings: Settings,
        registry: Registry,
        offer: Callable[[], WorkerOffer],
        silence_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._offer, self._silence_s = offer, silence_s
        self._messages: asyncio.Queue[messages.FromWorker | Died] = asyncio.Queue()
        self._death: asyncio.Future[str] = self._loop.create_future()
        self._last_heard = self._loop.time()
        setup = messages.Setup(settings.for_workers(), registry, tuple(sys.path))
        self._process = ChildProcess(f"lipsync-{name}", setup, child_environment(settings, index), self._post)

    async def start(self) -> WorkerOffer:
        self._process.start()
        while not isinstance(await self._next(), messages.Started):
            pass
        # Asked now: weights may have arrived while the process started.
        return self._offer()

    async def why_silent(self) -> str:
        return ""

    async def load(self, engine: str) -> AsyncGenerator[messages.FromWorker, None]:
        self._process.send(messages.Load(engine))
        while True:
            message = await self._next()
            yield message
            if isinstance(message, messages.Loaded | messages.LoadFailed):
                return

    async def render(self, serial: int, task: RenderTask) -> AsyncGenerator[messages.FromWorker, None]:
        self._process.send(messages.Render(serial, task))
        while True:
            message = await self._next()
            match message:
                case messages.Progress() if message.serial != serial:
                    continue
                case messages.Finished() | messages.Failed():
                    if message.serial == serial:
                        yield message
                        return
                case _:
                    yield message

    def cancel(self, serial: int) -> None:
        self._process.send(messages.Cancel(serial))

    async def ended(self) -> str:
        # Missing heartbeats reveal a process that is stopped or stuck while it waits for a task.
        while not self._death.done():
            heard = self._last_heard
            with suppress(TimeoutError):
                await within(self._silence_s, asyncio.shield(self._death))
            if not self._death.done() and heard == self._last_heard:
                return f"it sent no heartbeat for {self._silence_s:.0f} s"
        return self._death.result()

    async def kill(self) -> None:
        self._process.kill()
        if self._process.ident is not None:
            await in_daemon_thread(lambda: self._process.join(_KILL_S))
            if self._process.is_alive():
                log.error(
                    "a killed worker process does not end, because its disk or its GPU does not answer; another one is "
                    "started"
                )

    async def _next(self) -> messages.FromWorker:
        """The next message of the process. Raises LinkLost when the process has ended."""
        message = await self._messages.get()
        if isinstance(message, Died):
            self._messages.put_nowait(message)  # for the next caller
            raise LinkLost(cause_of_death(message))
        return message

    def _post(self, message: messages.FromWorker | Died) -> None:
        """Pass a message to the event loop. The thread of the child process calls this."""
        self._loop.call_soon_threadsafe(self._take, message)

    def _take(self, message: messages.FromWorker | Died) -> None:
        """Queue a message for the reader; log lines are written at once. Runs in the event loop."""
        self._last_heard = self._loop.time()
        match message:
            case messages.LogLine():
                log_lines.write(message)
            case messages.Alive() if not self._messages.empty():
                pass  # the server reads no heartbeats while the worker is idle, so keep one only
            case Died():
                if not self._death.done():
                    self._death.set_result(cause_of_death(message))
                self._messages.put_nowait(message)
            case _:
                self._messages.put_nowait(message)

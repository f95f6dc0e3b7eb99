"""One worker of a Ray cluster as the server sees it: an actor through all of its lives.

Knows Ray's calls and the words of actor.py; the executor (executor.py) says on which machine the actor is made. All
methods belong to one event loop, and nothing here blocks it: files are read and written in the executor's threads.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor as Threads
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from lipsync_server.errors import Cancelled, LipsyncError, NodeLost, WorkerCrashed
from lipsync_server.workers import log_lines, messages
from lipsync_server.workers.base import LoadState, WorkerInfo, WorkerState
from lipsync_server.workers.ray.actor import VIDEO, FromActor, MachineOffer
from lipsync_server.workers.ray.cluster import Machine
from lipsync_server.workers.ray.files import Kept, Piece, Receiver, keep_only, pieces, resume_files
from lipsync_server.workers.render import in_words
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
_BACKOFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
_CANCEL_GRACE_S = 60.0
_PROBE_S = 3.0
# Pieces of 2 MiB that wait for the server at most: with all workers at once they must fit a small object store.
_PIECES_AHEAD = 4

T = TypeVar("T")
MakeActor = Callable[[Machine], Any]


@dataclass
class _Running:
    """The render that a worker is at."""

    serial: int
    task: RenderTask
    on_progress: Callable[[ProgressEvent], None]
    work: asyncio.Future[RenderOutcome]
    cancelled: bool = False
    settled: bool = False
    """The actor is not at it any more, or never was."""


class RayWorker:
    """An actor on `machine`, made again when it dies, until stop()."""

    def __init__(
        self,
        worker_id: str,
        machine: Machine,
        make_actor: MakeActor,
        threads: Threads,
        *,
        offered: Callable[[MachineOffer], None],
        changed: Callable[[], None],
    ) -> None:
        self.worker_id, self.machine = worker_id, machine
        self.engines: frozenset[str] = frozenset()
        self.state: WorkerState = "starting"
        self.idle_since = time.monotonic()
        self._make_actor, self._threads = make_actor, threads
        self._offered, self._changed = offered, changed
        self._actor: Any = None
        self._engine = ""
        self._running: _Running | None = None
        self._serial = 0
        self._life_over = asyncio.Event()
        self._lost = ""
        self._failed_starts = 0
        self._death = "it is still starting"
        self._load_failed = ""
        self._loading: messages.Loading | None = None
        self._lives: asyncio.Task[None] | None = None

    @property
    def hopeless(self) -> bool:
        """The actor dies again and again before it takes a task."""
        return self._failed_starts >= MAX_FAILED_STARTS

    def start(self) -> None:
        self._lives = asyncio.create_task(self._live(), name=f"worker {self.worker_id}")

    def stop(self, why: str) -> None:
        """End the actor for good: a running render raises NodeLost. ended() waits for it."""
        self._lost = why
        self._set_state("dead")
        if self._lives is not None:
            self._lives.cancel()
        if self._running is not None:
            self._running.work.cancel()

    async def ended(self) -> None:
        if self._lives is not None:
            await asyncio.gather(self._lives, return_exceptions=True)

    async def render(self, task: RenderTask, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        if self._is("dead") and self._lost:
            raise NodeLost(f"The machine {self.machine.name} is no longer there: {self._lost}.")
        if not self._is("ready"):
            raise WorkerCrashed(f"The worker on {self.machine.name} is not running: {self._death}.")
        self._serial += 1
        running = _Running(self._serial, task, on_progress, asyncio.get_running_loop().create_future())
        running.work = asyncio.ensure_future(self._render(running))
        self._running = running
        self._set_state("busy")
        try:
            return await running.work
        except asyncio.CancelledError:
            if running.work.cancelled() and self._lost:
                raise NodeLost(f"The machine {self.machine.name} was lost while rendering: {self._lost}.") from None
            # Nobody listens to the render any more, and it can be ended in no other way.
            self._end_life("a render was given up")
            raise
        except RayError as error:
            raise await self._crash(running, error) from error
        except OSError as error:
            raise in_words(error, task.engine) from error
        finally:
            self._running = None
            if not running.settled and self._is("busy"):
                self._end_life("a render broke off, and the actor may still be at it")
            self.idle_since = time.monotonic()
            if self._is("busy"):
                self._set_state("ready")

    def cancel(self, task_id: str) -> None:
        running = self._running
        if running is None or running.task.task_id != task_id or running.cancelled:
            return
        running.cancelled = True
        if self._actor is not None:
            self._actor.cancel.remote(running.serial)
        asyncio.get_running_loop().call_later(_CANCEL_GRACE_S, self._kill_if_still_at, running)

    def info(self) -> WorkerInfo:
        task_id = self._running.task.task_id if self._running is not None else None
        return WorkerInfo(self.worker_id, self.machine.name, self._engine, self.state, task_id)

    def load_state(self) -> LoadState:
        """How far this worker's own best engine is."""
        if self._load_failed:
            return LoadState(False, "failed", 0.0, self._load_failed)
        if self.hopeless:
            return LoadState(False, "failed", 0.0, f"The worker on {self.machine.name} does not start: {self._death}.")
        if self.state in ("ready", "busy") and self.engines:
            return LoadState(True, "ready", 1.0, f"{self._engine or 'An engine'} is loaded on {self.machine.name}.")
        loading = self._loading
        if self.state != "loading" or loading is None:
            return LoadState(False, "starting", 0.0, f"The worker on {self.machine.name} is starting.")
        fraction = min(1.0, loading.done / loading.total) if loading.total > 0 else 0.0
        return LoadState(False, "loading", fraction, f"Loading {loading.engine} on {self.machine.name}.")

    # One life after the other

    async def _live(self) -> None:
        while True:
            self._set_state("starting")
            self._life_over.clear()
            try:
                await self._live_once()
            except RayError as error:
                self._death = cause_of_death(error)
            except Exception as error:
                log.exception("worker %s cannot be run", self.worker_id)
                self._death = f"{type(error).__name__}: {error}"
            finally:
                self._loading, self._engine = None, ""
                self._set_state("dead")
                await self._kill()
            delay_s = _BACKOFF_S[min(self._failed_starts, len(_BACKOFF_S) - 1)]
            self._failed_starts += 1
            log.error("worker %s died: %s; it starts again in %.1f s", self.worker_id, self._death, delay_s)
            await asyncio.sleep(delay_s)

    async def _live_once(self) -> None:
        """From the actor's making to its end; returns or raises when it has ended."""
        self._actor = await self._in_thread(partial(self._make_actor, self.machine))
        offer: MachineOffer = await self._actor.offer.remote()
        self.engines = frozenset(info.name for info in offer.engines if info.available)
        self._load_failed = "" if offer.default else offer.why
        self._offered(offer)
        log.info("machine %s offers engine %s", self.machine.name, offer.why)
        lifeline = asyncio.ensure_future(_value(self._actor.lifeline.remote()))
        over = asyncio.ensure_future(self._life_over.wait())
        try:
            if offer.default:
                await self._load(offer.default)
            self._failed_starts = 0
            self._set_state("ready")
            await asyncio.wait({lifeline, over}, return_when=asyncio.FIRST_COMPLETED)
            if lifeline.done():
                self._death = "it ended itself; the log has the reason"
                lifeline.result()
        finally:
            for waiting in (lifeline, over):
                waiting.cancel()
            await asyncio.gather(lifeline, over, return_exceptions=True)

    async def _load(self, engine: str) -> None:
        self._loading = messages.Loading(engine, "load", 0, 1)
        self._set_state("loading")
        async for message in self._stream("load", engine):
            match message:
                case messages.Loading():
                    self._loading = message
                case messages.Loaded():
                    self._engine = message.engine
                case messages.LoadFailed():
                    self._load_failed = message.error.detail
                    log.error("engine %s could not be loaded: %s", message.engine, message.error.detail)
                case messages.LogLine():
                    self._write_log(message)
        self._loading = None

    async def _kill(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            try:
                await self._in_thread(partial(ray.kill, actor))
            except (RayError, ValueError) as error:
                log.debug("actor of worker %s could not be killed: %s", self.worker_id, error)

    def _end_life(self, why: str) -> None:
        self._death = why
        self._set_state("dead")
        self._life_over.set()

    # Rendering

    async def _render(self, running: _Running) -> RenderOutcome:
        task = running.task
        await self._send_files(running)
        video, scratch = Receiver(task.output.parent), Receiver(task.scratch)
        try:
            async for message in self._stream("render", running.serial, _on_the_way(task)):
                match message:
                    case messages.Progress():
                        running.on_progress(message.event)
                    case Piece() if message.name == VIDEO:
                        piece = replace(message, name=task.output.name)
                        await self._in_thread(partial(video.take, piece, complete=False))
                    case Piece():
                        await self._in_thread(partial(scratch.take, message))
                    case Kept():
                        await self._in_thread(partial(keep_only, task.scratch, message.names))
                    case messages.Finished():
                        running.settled = True
                        self._engine = message.holds
                        await self._in_thread(partial(video.complete, message.outcome.sha256))
                        return message.outcome
                    case messages.Failed():
                        running.settled = True
                        self._engine = message.holds
                        raise message.error
                    case messages.LogLine():
                        self._write_log(message)
        finally:
            for receiver in (video, scratch):
                await asyncio.shield(self._in_thread(receiver.drop))
        raise WorkerCrashed(f"The worker on {self.machine.name} stopped speaking in the middle of a render.")

    async def _send_files(self, running: _Running) -> None:
        """The inputs, and what an earlier try left to resume from, to the actor."""
        task = running.task
        files = {"image": task.image, "audio": task.audio}
        if task.second_audio is not None:
            files["second_audio"] = task.second_audio
        for name in await self._in_thread(partial(resume_files, task.scratch)):
            files[f"scratch/{name}"] = task.scratch / name
        for name, path in files.items():
            parts = pieces(path, name)
            while (piece := await self._in_thread(partial(next, parts, None))) is not None:
                if running.cancelled:
                    running.settled = True
                    self._actor.drop.remote(running.serial)
                    raise Cancelled("The job was cancelled.")
                await (await self._in_thread(partial(self._actor.receive.remote, running.serial, piece)))

    async def _crash(self, running: _Running, error: RayError) -> LipsyncError:
        """What it means that Ray ended a render; the actor's life is over."""
        cause = cause_of_death(error)
        self._end_life(cause)
        if running.cancelled:
            return Cancelled("The job was cancelled.")
        # Ray itself takes some seconds to tell a machine that went away from a process that did.
        if self._lost or not await _answers(self.machine):
            return NodeLost(f"The machine {self.machine.name} was lost while rendering: {cause}")
        return WorkerCrashed(f"The worker on {self.machine.name} ended while rendering: {cause}")

    def _kill_if_still_at(self, running: _Running) -> None:
        if running is self._running:
            log.error("worker %s did not stop within %.0f s; it is killed", self.worker_id, _CANCEL_GRACE_S)
            self._end_life("it ignored being cancelled")

    # Talking

    async def _stream(self, method: str, *arguments: object) -> AsyncIterator[FromActor]:
        call = getattr(self._actor, method).options(
            num_returns="streaming", _generator_backpressure_num_objects=_PIECES_AHEAD
        )
        async for reference in call.remote(*arguments):
            yield await reference

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _write_log(self, line: messages.LogLine) -> None:
        log_lines.write(line, note=f" (on {self.machine.name})")

    def _is(self, state: WorkerState) -> bool:
        return self.state == state

    def _set_state(self, state: WorkerState) -> None:
        self.state = state
        self._changed()


def cause_of_death(error: BaseException) -> str:
    """Ray's explanation in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else lines[0]


def _on_the_way(task: RenderTask) -> RenderTask:
    """The task as the actor gets it: it puts its own paths in, and need not know the server's."""
    nowhere = Path()
    second = None if task.second_audio is None else nowhere
    return replace(task, image=nowhere, audio=nowhere, second_audio=second, output=nowhere, scratch=nowhere)


async def _value(reference: Any) -> object:
    return await reference


async def _answers(machine: Machine) -> bool:
    """Whether Ray on the machine still takes connections."""
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(machine.address, machine.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True

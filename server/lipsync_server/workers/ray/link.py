"""The connection to one actor of a Ray cluster: implements Link with Ray's calls and transfers files both ways.

Knows Ray and the messages of actor.py; executor.py decides on which machine an actor is made. All methods belong to one
event loop and do not block it: files are read and written in threads.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor as Threads
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from lipsync_server.errors import Cancelled, DiskFull, OutOfMemory, ServerDiskFull
from lipsync_server.workers import log_lines, messages
from lipsync_server.workers.link import LinkLost, WorkerOffer
from lipsync_server.workers.ray.actor import BESIDE, SPEECH, VIDEO, FromActor, MachineOffer
from lipsync_server.workers.ray.cause import cause_of_death, why_waiting
from lipsync_server.workers.ray.cluster import Machine
from lipsync_server.workers.ray.files import Kept, Piece, Receiver, keep_only, pieces, resume_files
from lipsync_server.workers.ray.versions import Versions, difference
from lipsync_server.workers.rendering.failures import in_words
from lipsync_server.workers.task import RenderTask

log = logging.getLogger(__name__)

_PROBE_S = 3.0
# The largest number of 2 MiB pieces that wait for the server: those of all workers must fit into a small object store.
_PIECES_AHEAD = 4

T = TypeVar("T")


class _NoRoom(Exception):
    """The machine's temporary folder has too little space for a render."""


class RayLink:
    """The link to one actor on `machine`. offered: called with the machine's engines once they are known."""

    def __init__(
        self,
        machine: Machine,
        make_actor: Callable[[Machine], Any],
        threads: Threads,
        offered: Callable[[MachineOffer], None],
    ) -> None:
        self._machine, self._make_actor, self._threads, self._offered = machine, make_actor, threads, offered
        self._actor: Any = None
        self._engine = ""
        self._cancelled: set[int] = set()

    async def start(self) -> WorkerOffer:
        try:
            self._actor = await self._in_thread(partial(self._make_actor, self._machine))
            offer: MachineOffer = await self._actor.offer.remote()
        except RayError as error:
            raise await self._lost(error) from error
        there = getattr(offer, "versions", None)  # an older lipsync-server does not send them
        if why := difference(there, Versions.here(), self._machine.name):
            log.error("%s", why)
            return WorkerOffer(frozenset(), "", why, "" if there is None else there.lipsync)
        self._offered(offer)
        log.info("machine %s offers engine %s", self._machine.name, offer.why)
        engines = frozenset(info.name for info in offer.engines if info.available)
        why = "" if offer.default else f"On machine {self._machine.name}: {offer.why}"
        return WorkerOffer(engines, offer.default, why, offer.versions.lipsync)

    async def why_silent(self) -> str:
        return await self._in_thread(partial(why_waiting, self._machine))

    async def load(self, engine: str) -> AsyncGenerator[messages.FromWorker, None]:
        async for message in self._stream("load", engine):
            if not isinstance(message, Piece | Kept):
                yield message

    async def render(self, serial: int, task: RenderTask) -> AsyncGenerator[messages.FromWorker, None]:
        try:
            async for sent in self._send_files(serial, task):
                yield sent
            async for message in self._receive(serial, task):
                yield message
        except _NoRoom as no_room:
            yield messages.Failed(serial, DiskFull(f"On machine {self._machine.name}: {no_room}"), self._engine)
        except RayError as error:
            raise await self._lost(error) from error
        except OSError as error:
            words = in_words(error, task.engine)
            raise (ServerDiskFull(words.detail) if isinstance(words, DiskFull) else words) from error

    def cancel(self, serial: int) -> None:
        self._cancelled.add(serial)
        if self._actor is not None:
            self._actor.cancel.remote(serial)

    async def ended(self) -> str:
        try:
            await _value(self._actor.lifeline.remote())
        except RayError as error:
            return cause_of_death(error)
        return "it ended itself; the log has the reason"

    async def kill(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            try:
                await self._in_thread(partial(ray.kill, actor))
            except (RayError, ValueError) as error:
                log.debug("an actor on %s could not be killed: %s", self._machine.name, error)

    async def _send_files(self, serial: int, task: RenderTask) -> AsyncGenerator[messages.FromWorker, None]:
        """Send the inputs and the earlier try's resume point to the actor; yields Alive after each piece."""
        files = {"image": task.image}
        if await self._in_thread(task.audio.is_file):  # a text is spoken on the machine
            files["audio"] = task.audio
        if task.second_audio is not None:
            files["second_audio"] = task.second_audio
        for name in await self._in_thread(partial(resume_files, task.scratch)):
            files[f"scratch/{name}"] = task.scratch / name
        n_bytes = await self._in_thread(lambda: sum(path.stat().st_size for path in files.values()))
        if (no_room := await self._actor.why_no_room.remote(n_bytes)) is not None:
            raise _NoRoom(no_room)
        for name, path in files.items():
            parts = pieces(path, name)
            while (piece := await self._in_thread(partial(next, parts, None))) is not None:
                if serial in self._cancelled:
                    self._actor.drop.remote(serial)
                    raise Cancelled("The job was cancelled.")
                await (await self._in_thread(partial(self._actor.receive.remote, serial, piece)))
                yield messages.Alive()

    async def _receive(self, serial: int, task: RenderTask) -> AsyncGenerator[messages.FromWorker, None]:
        """Render: store the received video and resume points, and yield the other messages."""
        video, scratch = Receiver(task.output.parent), Receiver(task.scratch)
        beside, speech = Receiver(task.output.parent), Receiver(task.audio.parent)
        names = {Path(VIDEO).with_suffix(ending).name: task.output.with_suffix(ending).name for ending in BESIDE}
        try:
            async for message in self._stream("render", serial, _without_paths(task)):
                match message:
                    case Piece() if message.name == VIDEO:
                        piece = replace(message, name=task.output.name)
                        await self._in_thread(partial(video.take, piece, complete=False))
                        yield messages.Alive()
                    case Piece() if message.name in names:
                        await self._in_thread(partial(beside.take, replace(message, name=names[message.name])))
                        yield messages.Alive()
                    case Piece() if message.name == SPEECH:
                        await self._in_thread(partial(speech.take, replace(message, name=task.audio.name)))
                        yield messages.Alive()
                    case Piece():
                        await self._in_thread(partial(scratch.take, message))
                        yield messages.Alive()
                    case Kept():
                        await self._in_thread(partial(keep_only, task.scratch, message.names))
                    case messages.Finished():
                        await self._in_thread(partial(video.complete, message.outcome.sha256))
                        yield message
                    case messages.Failed(error=OutOfMemory() | DiskFull() as error):
                        yield replace(message, error=type(error)(f"On machine {self._machine.name}: {error.detail}"))
                    case _:
                        yield message
        finally:
            for receiver in (video, scratch, beside, speech):
                await asyncio.shield(self._in_thread(receiver.drop))

    async def _stream(self, method: str, *arguments: object) -> AsyncGenerator[FromActor, None]:
        """Yield the messages of a call to the actor, and note the engine that it has loaded. Raises LinkLost."""
        call = getattr(self._actor, method).options(
            num_returns="streaming", _generator_backpressure_num_objects=_PIECES_AHEAD
        )
        try:
            async for reference in call.remote(*arguments):
                message = await reference
                match message:
                    case messages.LogLine():
                        log_lines.write(message, note=f" (on {self._machine.name})")
                    case messages.Loaded():
                        self._engine = message.engine
                    case messages.Finished() | messages.Failed():
                        self._engine = message.holds
                yield message
        except RayError as error:
            raise await self._lost(error) from error

    async def _lost(self, error: RayError) -> LinkLost:
        """The LinkLost for an error of Ray, with whether the whole machine was lost."""
        # Ray needs some seconds to distinguish a lost machine from an ended process.
        return LinkLost(cause_of_death(error), machine_gone=not await _answers(self._machine))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _without_paths(task: RenderTask) -> RenderTask:
    """The task for the actor, without the server's paths: the actor inserts its own. Nobody watches a file there."""
    nowhere = Path()
    second = None if task.second_audio is None else nowhere
    sheet = None if task.sheet is None else nowhere
    return replace(
        task, image=nowhere, audio=nowhere, second_audio=second, output=nowhere, scratch=nowhere, sheet=sheet,
        progressive=False,
    )  # fmt: skip


async def _value(reference: Any) -> object:
    return await reference


async def _answers(machine: Machine) -> bool:
    """Whether Ray on the machine still accepts connections."""
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(machine.address, machine.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True

"""Checks uploaded files before a job is made, so that a bad file is refused at once.

The files are decoded in processes with limits (media/sandbox), never in the server's own process. Two lanes, each with
a limited number of places, keep slow files from delaying quick ones: a file that is not decoded within QUICK_S seconds
moves to the slow lane, which has fewer places.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web

from lipsync_server.engines.ask import Ask
from lipsync_server.errors import Cancelled, LipsyncError, UnsupportedMedia
from lipsync_server.http.inputs.sink import Taken
from lipsync_server.media.sandbox.pool import BorrowedProcess, DecoderPool
from lipsync_server.media.sandbox.tasks import ProbePicture, ProbeRecording, ProbeText, Task
from lipsync_server.media.voice.choice import FOLDER, choose_speaker, language_named, too_long
from lipsync_server.settings import Settings
from lipsync_server.weights.places import folder_named

Result = TypeVar("Result")

QUICK_S = 3.0
"""An ordinary picture is decoded in 0.1 s, an ordinary recording of ten minutes in 1 s."""
N_QUICK, N_SLOW = 4, 2
N_WARM = 3
"""Two uploads of hostile files at once cost two processes; the next upload still finds one ready."""
_POLL_INTERVAL_S = 0.1


@dataclass(frozen=True)
class ProbedInputs:
    """The result of a probe: the length of the video in seconds, and warnings for the job."""

    duration_s: float
    warnings: tuple[str, ...]


def caller_has_left(request: web.Request) -> bool:
    """Whether the caller has closed the connection of `request`."""
    return request.transport is None or request.transport.is_closing()


class Prober:
    """Probes the files of requests in decoder processes. All methods belong to one event loop."""

    def __init__(self, settings: Settings, decoders: DecoderPool | None = None) -> None:
        """decoders: a shared pool of decoder processes; without one the prober starts its own and closes it."""
        self._settings, self._is_owner = settings, decoders is None
        self._decoders = decoders or DecoderPool(n_warm=N_WARM)
        self._quick, self._slow = asyncio.Semaphore(N_QUICK), asyncio.Semaphore(N_SLOW)
        # Threads that wait for decoder processes. The loop's default threads may all be waiting for a slow store.
        self._threads = ThreadPoolExecutor(N_QUICK + N_SLOW, thread_name_prefix="probe")

    def start(self) -> None:
        """Begin to start the warm decoder processes, in a thread."""
        self._threads.submit(self._decoders.warm_up)

    async def close(self) -> None:
        """End the decoder processes. aiohttp has cancelled the requests that were still probing."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._is_owner:
            await asyncio.to_thread(self._decoders.close)

    async def probe(self, files: dict[str, Taken], ask: Ask, *, caller_left: Callable[[], bool]) -> ProbedInputs:
        """Check all files, and the text where it stands for a recording.

        Raises media's errors, which name the field, and Cancelled soon after the caller hung up.
        """
        durations: list[float] = []
        warnings: list[str] = []
        for name, taken in files.items():
            try:
                if taken.n_bytes == 0:
                    raise UnsupportedMedia(f"The file in {name} is empty.")
                if name == "image":
                    await self.run(self._picture(taken), caller_left)
                else:
                    found = await self.run(self._recording(taken), caller_left)
                    durations.append(found.duration_s)
                    warnings += found.warnings
            except LipsyncError as error:
                error.field = error.field or name
                raise
        if ask.is_spoken:
            durations.append(await self._spoken_s(ask, caller_left))
        return ProbedInputs(max(durations), tuple(warnings))

    async def _spoken_s(self, ask: Ask, caller_left: Callable[[], bool]) -> float:
        """About how long the text takes to speak. Raises InvalidInput for a text that cannot be spoken here."""
        found = await self.run(ProbeText(ask.text, language_named(ask.voice, ask.language)), caller_left)
        if self._settings.executor == "process":  # the machines of a cluster have model files of their own
            await asyncio.to_thread(self._check_voice, ask.voice, found.language)
        if found.duration_s > self._settings.max_audio_s:
            raise too_long(self._settings.max_audio_s)
        return found.duration_s

    def _check_voice(self, voice: str, language: str) -> None:
        """Raise InvalidInput for a voice that cannot speak here."""
        choose_speaker(voice, language, folder_named(self._settings.weights_dir, FOLDER))

    def _picture(self, taken: Taken) -> ProbePicture:
        return ProbePicture(taken.path, self._settings.max_image_pixels)

    def _recording(self, taken: Taken) -> ProbeRecording:
        return ProbeRecording(taken.path, self._settings.min_audio_s, self._settings.max_audio_s)

    async def run(self, task: Task[Result], caller_left: Callable[[], bool]) -> Result:
        """The task's result. Raises media's errors, and Cancelled when the caller hangs up, which kills the process."""
        work = asyncio.create_task(self._run(task))
        try:
            while not (await asyncio.wait({work}, timeout=_POLL_INTERVAL_S))[0]:
                if caller_left():
                    raise Cancelled("The caller hung up.")
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _run(self, task: Task[Result]) -> Result:
        """The task's result, by way of the quick lane and, after QUICK_S seconds, of the slow lane."""
        attempt: _Attempt[Result] | None = None
        try:
            async with self._quick:
                attempt = _Attempt(self._threads, self._decoders, task)
                if await attempt.is_done(QUICK_S):
                    return attempt.result()
            if self._slow.locked():
                # The slow lane is full: end the process to free its memory, and start again when a place is free.
                await attempt.stop()
                attempt = None
            async with self._slow:
                attempt = attempt or _Attempt(self._threads, self._decoders, task)
                await attempt.is_done(None)
                return attempt.result()
        finally:
            if attempt is not None:
                await attempt.stop()


class _Attempt(Generic[Result]):
    """One decoder process that works on a task, and the thread that waits for that process."""

    def __init__(self, threads: ThreadPoolExecutor, decoders: DecoderPool, task: Task[Result]) -> None:
        self._process: BorrowedProcess | None = None
        self._is_stopped = False
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._future = asyncio.wrap_future(threads.submit(self._run, decoders, task))

    async def is_done(self, timeout_s: float | None) -> bool:
        """Wait up to `timeout_s` seconds from the task's beginning; returns whether the task has ended.

        The start of a fresh process does not count. On a busy machine an honest file would be taken for a slow one.
        """
        begun = asyncio.create_task(self._begun.wait())
        either: tuple[asyncio.Future[Any], ...] = (self._future, begun)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        return bool((await asyncio.wait({self._future}, timeout=timeout_s))[0])

    def result(self) -> Result:
        """The result of a task that has ended, or the error that it raised."""
        return self._future.result()

    async def stop(self) -> None:
        """Kill the process if it still runs, and wait until its thread has ended."""
        self._is_stopped = True
        if not self._future.done() and self._process is not None:
            self._process.kill()
        await asyncio.gather(self._future, return_exceptions=True)

    def _run(self, decoders: DecoderPool, task: Task[Result]) -> Result:
        with decoders.process() as process:
            self._process = process
            if self._is_stopped:
                process.kill()
            return process.run(task, lambda: self._loop.call_soon_threadsafe(self._begun.set))

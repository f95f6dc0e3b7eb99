"""InfiniteTalk on several GPUs of one machine: the same engine in as many processes, their transformers joined.

Every process renders the same request with the same random numbers. Inside the transformer's blocks each takes a share
of the tokens (model/sequence_parallel.py); all else each process does for itself. This process is the first of them,
and only its frames are used; the others are its helpers. A process that stopped alone would leave the others waiting in
an exchange for ever, so all agree on whether a job is cancelled. Knows processes and the engine interface. Does not
know the model.
"""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
import torch.distributed as dist

from lipsync_server.engines.base import Frames, RenderContext, RenderRequest, Report, ResumePoint, State, no_report
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.errors import LipsyncError, OutOfMemory
from lipsync_server.processes import end_with_parent
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)

EXIT_HELPER_LOST = 71
"""Exit status of a worker one of whose helpers has ended: an exchange between GPUs cannot be ended in another way."""
# A reason that ends a helper, such as too little memory, mostly ends the first process too, with a better message.
_GRACE_S = 5.0


@dataclass(frozen=True)
class _Load:
    """Message of the first process to a helper: load the models of the settings' preset."""


@dataclass(frozen=True)
class _Render:
    """Message of the first process to a helper: render this request, from the resume point if there is one."""

    request: RenderRequest
    resume_point: ResumePoint | None


class ParallelEngine:
    """InfiniteTalk on `n_processes` GPUs, or CPU processes when the device is "cpu". One request at a time."""

    name = "infinitetalk"

    def __init__(self, settings: EngineSettings, n_processes: int) -> None:
        self._settings, self._n_processes = settings, n_processes
        self._engine = InfiniteTalkEngine(_on_device(settings, 0))
        self._pipes: list[Connection] = []
        self._helpers: list[SpawnProcess] = []
        self._closing = threading.Event()
        self._meeting: tempfile.TemporaryDirectory[str] | None = None

    def load(self, report: Report = no_report) -> None:
        """Start the helpers and load the model in every process; idempotent."""
        if not self._helpers:
            self._start()
            self._tell(_Load())
            self._engine.load(report)
            self._wait()

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Frames of the video, a few at a time: uint8 RGB (n, H, W, 3), made by all processes together."""
        self.load(lambda stage, done, total: context.progress("load", done, total, stage))
        together = _Together(context.scratch, context.resume_point, context)
        self._tell(_Render(request, context.resume_point))
        frames = self._engine.generate(request, together)
        try:
            yield from _whole(frames, together)
        except Exception as error:  # any error ends this job, and the other processes must end it too
            # A fault of the request, and a cancelled job, end `generate` in every process alike.
            if isinstance(error, LipsyncError) and not isinstance(error, OutOfMemory):
                self._wait()
            else:
                self.close()
            raise
        self._wait()

    def close(self) -> None:
        """End the helpers and free the memory of all models."""
        self._closing.set()
        for pipe in self._pipes:
            pipe.close()
        for helper in self._helpers:
            helper.kill()
            helper.join()
        self._pipes, self._helpers = [], []
        if dist.is_initialized():
            _abort_group(self._settings)
        self._engine.close()
        if self._meeting is not None:
            self._meeting.cleanup()

    def _start(self) -> None:
        self._closing = threading.Event()
        spawn = multiprocessing.get_context("spawn")
        self._meeting = tempfile.TemporaryDirectory(prefix="lipsync-")
        meeting = Path(self._meeting.name) / "meeting"
        for rank in range(1, self._n_processes):
            ours, theirs = spawn.Pipe()
            helper = spawn.Process(
                target=_help,
                args=(theirs, self._settings, rank, self._n_processes, meeting, os.getpid()),
                name=f"infinitetalk-{rank}",
                daemon=True,
            )
            helper.start()
            theirs.close()
            self._pipes.append(ours)
            self._helpers.append(helper)
        threading.Thread(target=_watch, args=(list(self._helpers), self._closing), name="helpers", daemon=True).start()
        _join(self._settings, 0, self._n_processes, meeting)

    def _tell(self, message: _Load | _Render) -> None:
        for pipe in self._pipes:
            pipe.send(message)

    def _wait(self) -> None:
        """Wait until every helper has done the last message."""
        for pipe in self._pipes:
            pipe.recv()


@dataclass
class _Together:
    """The context of an engine in every process; the first process decides whether the job is cancelled.

    context: the real one, in the first process only.
    """

    scratch: Path
    resume_point: ResumePoint | None
    context: RenderContext | None = None
    stopped: bool = field(default=False)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        if self.context is not None and not self.stopped:
            self.context.progress(stage, done, total, note)

    def cancelled(self) -> bool:
        """Every process asks equally often, because all run the same code."""
        here = self.context is not None and (self.stopped or self.context.cancelled())
        decision = torch.tensor([here], dtype=torch.int32)
        dist.broadcast(decision, 0)
        return bool(decision)

    def warn(self, message: str) -> None:
        if self.context is not None:
            self.context.warn(message)

    def save(self, state: State) -> None:
        if self.context is not None and not self.stopped:
            self.context.save(state)


def _help(
    pipe: Connection, settings: EngineSettings, rank: int, n_processes: int, meeting: Path, first_pid: int
) -> None:
    """A helper's whole life. An error ends the helper, and `_watch` then ends the first process."""
    end_with_parent(first_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=settings.log_level.upper())
    _join(settings, rank, n_processes, meeting)
    engine = InfiniteTalkEngine(_on_device(settings, rank))
    with tempfile.TemporaryDirectory(prefix="lipsync-") as folder:
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                return
            if isinstance(message, _Load):
                engine.load()
            else:
                _exhaust(engine.generate(message.request, _Together(Path(folder), message.resume_point)))
            pipe.send(None)


def _watch(helpers: list[SpawnProcess], closing: threading.Event) -> None:
    """End this process when a helper has ended, unless the engine is closing: its exchanges would wait for ever."""
    wait([helper.sentinel for helper in helpers])
    if not closing.wait(_GRACE_S):
        log.error("a process that renders with this one has ended; this worker ends, too, and starts again")
        os._exit(EXIT_HELPER_LOST)


def _whole(frames: Iterator[Frames], together: _Together) -> Iterator[Frames]:
    """Yield the frames. If the caller stops early, run on to the next cancellation check, because the other GPUs wait
    for us in a collective operation until then."""
    try:
        # Not `yield from`, which would close the engine's own generator here and nowhere else.
        for batch in frames:  # noqa: UP028 - see above
            yield batch
    except GeneratorExit:
        together.stopped = True
        _exhaust(frames)
        raise


def _exhaust(frames: Iterator[Frames]) -> None:
    """Run the job to its end and drop the frames. Raises OutOfMemory; other LipsyncErrors end every process's job."""
    try:
        for _ in frames:
            pass
    except OutOfMemory:
        raise
    except LipsyncError as error:
        log.debug("every process stops: %s", error)


def _join(settings: EngineSettings, rank: int, n_processes: int, meeting: Path) -> None:
    """Join torch.distributed's group. meeting: the file through which the processes find each other.

    Decisions, such as to cancel, go through the CPU's backend (gloo), which waits for no GPU.
    """
    backend = "gloo"
    if settings.device != "cpu":
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, f"file://{meeting}", rank=rank, world_size=n_processes)


def _abort_group(settings: EngineSettings) -> None:
    """End the process group without an exchange: the other processes were killed, perhaps in the middle of one."""
    if settings.device != "cpu":
        world = dist.group.WORLD
        assert world is not None
        world._get_backend(torch.device("cuda")).abort()
    dist.destroy_process_group()


def _on_device(settings: EngineSettings, rank: int) -> EngineSettings:
    return settings if settings.device == "cpu" else settings.model_copy(update={"device": f"cuda:{rank}"})

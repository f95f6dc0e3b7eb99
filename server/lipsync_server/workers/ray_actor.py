"""The cluster's side of a worker: an actor that holds engines on its machine and renders one task at a time.

Runs inside a Ray worker process but knows nothing of Ray: ray_worker.py makes an actor of the class. Files come and go
in pieces (ray_files.py); what happens is told in the words of messages.py. The server's folders are not here: each
render has a folder of its own on this machine, removed at its end or by the next actor.
"""

import fcntl
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from lipsync_server import errors
from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.registry import Registry
from lipsync_server.settings import Settings
from lipsync_server.workers import messages
from lipsync_server.workers.ray_files import Kept, Piece, Receiver, ResumeFiles, pieces
from lipsync_server.workers.render import in_words, render
from lipsync_server.workers.shelf import EngineShelf
from lipsync_server.workers.task import ProgressEvent, RenderTask

_LOOK_EVERY_S = 0.5
_PROGRESS_INTERVAL_S = 0.1
_OF_THE_MACHINE = ("weights_dir", "manifest", "device", "lora")
VIDEO = "video.mp4"

FromActor = messages.FromWorker | Piece | Kept

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MachineOffer:
    """What a machine can run. `default`: the engine to load, "" when none can run; `why` says which and why."""

    engines: tuple[EngineInfo, ...]
    default: str
    why: str


class EngineActor:
    """Engines on one machine. Calls come in several threads; engines are used in one thread only, always the same."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = on_this_machine(settings), registry
        self._shelf = EngineShelf(registry, self._settings)
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._home = _Home(Path(tempfile.gettempdir()) / "lipsync-ray")
        self._receivers: dict[int, Receiver] = {}
        self._cancelled: set[int] = set()
        self._said: queue.SimpleQueue[messages.FromWorker] | None = None
        self._ended = threading.Event()
        root = logging.getLogger()
        root.addHandler(_StreamLog(self))
        root.setLevel(self._settings.log_level.upper())

    def offer(self) -> MachineOffer:
        infos = tuple(self._registry.describe(self._settings))
        try:
            default, why = self._registry.choose(self._settings)
        except errors.EngineUnavailable as error:
            default, why = "", error.detail
        return MachineOffer(infos, default, why)

    def lifeline(self) -> None:
        """Returns never: whoever waits for it learns that this actor has ended."""
        self._ended.wait()

    def load(self, name: str) -> Iterator[FromActor]:
        """Load engine `name`; ends with Loaded or LoadFailed."""
        for message in self._tell(lambda said: self._load(name, said)):
            if message is not None:
                yield message

    def receive(self, serial: int, piece: Piece) -> None:
        """Take a piece of an input of the coming render `serial`."""
        receiver = self._receivers.setdefault(serial, Receiver(self._home.render(serial)))
        receiver.take(piece)

    def render(self, serial: int, task: RenderTask) -> Iterator[FromActor]:
        """Render `task`, whose files have been received as its image, audio, second_audio and scratch/.

        Ends with Finished, before which the video came in pieces, or Failed. What a second try resumes from comes
        whenever it changes.
        """
        folder = self._home.render(serial)
        local = replace(
            task,
            image=folder / "image",
            audio=folder / "audio",
            second_audio=folder / "second_audio" if task.second_audio is not None else None,
            output=folder / VIDEO,
            scratch=folder / "scratch",
        )
        resume = ResumeFiles(local.scratch)
        looked_at = time.monotonic()
        try:
            for message in self._tell(lambda said: self._render(serial, local, said)):
                if isinstance(message, messages.Finished):
                    yield from pieces(local.output, VIDEO)
                elif isinstance(message, messages.Failed) or time.monotonic() - looked_at > _LOOK_EVERY_S:
                    yield from resume.news()
                    looked_at = time.monotonic()
                if message is not None:
                    yield message
        finally:
            self._receivers.pop(serial, None)
            self._cancelled.discard(serial)
            shutil.rmtree(folder, ignore_errors=True)

    def drop(self, serial: int) -> None:
        """Forget the inputs of a render that will not come."""
        self._receivers.pop(serial, None)
        shutil.rmtree(self._home.render(serial), ignore_errors=True)

    def cancel(self, serial: int) -> None:
        self._cancelled.add(serial)

    def say(self, message: messages.FromWorker) -> bool:
        """Pass a message on with whatever streams to the server now; False when nothing does."""
        said = self._said
        if said is not None:
            said.put(message)
        return said is not None

    def _tell(self, work: "_Work") -> Iterator[messages.FromWorker | None]:
        """Run `work` in the engine's thread; what it says as it comes, and None now and then in between."""
        said = self._said = queue.SimpleQueue()
        running = self._engine_thread.submit(work, said)
        try:
            while not (running.done() and said.empty()):
                try:
                    yield said.get(timeout=_LOOK_EVERY_S)
                except queue.Empty:
                    yield None
            running.result()
        finally:
            self._said = None

    def _load(self, name: str, said: "queue.SimpleQueue[messages.FromWorker]") -> None:
        due = _Pace()

        def report(stage: str, done: float, total: float) -> None:
            if due(stage):
                said.put(messages.Loading(name, stage, done, total))

        try:
            self._shelf.take(name).load(report)
        except Exception as error:
            if not isinstance(error, errors.LipsyncError):
                log.exception("engine %s could not be loaded", name)
            self._shelf.drop_unloaded()
            said.put(messages.LoadFailed(name, in_words(error, name)))
        else:
            said.put(messages.Loaded(name))

    def _render(self, serial: int, task: RenderTask, said: "queue.SimpleQueue[messages.FromWorker]") -> None:
        due = _Pace()

        def report(event: ProgressEvent) -> None:
            if due(event.stage):
                said.put(messages.Progress(serial, event))

        try:
            outcome = render(
                self._shelf.take(task.engine),
                task,
                report,
                lambda: serial in self._cancelled,
                self._settings,
                options_model=self._registry.options_model(task.engine),
            )
        except Exception as error:
            if not isinstance(error, errors.LipsyncError):
                log.exception("task %s could not be started", task.task_id)
            self._shelf.drop_unloaded()
            said.put(messages.Failed(serial, in_words(error, task.engine), self._shelf.holds()))
            if _lost_the_gpu(error):
                log.exception("the CUDA context is lost; this worker ends and a fresh one starts")
                self._ended.set()
        else:
            said.put(messages.Finished(serial, outcome, self._shelf.holds()))


class _Work(Protocol):
    """The type of what the engine's thread runs."""

    def __call__(self, said: "queue.SimpleQueue[messages.FromWorker]") -> None: ...


class _Pace:
    """Whether progress is to be sent now: a stage's first, then about ten a second."""

    def __init__(self) -> None:
        self._stage, self._sent_at = "", 0.0

    def __call__(self, stage: str) -> bool:
        now = time.monotonic()
        if stage == self._stage and now - self._sent_at < _PROGRESS_INTERVAL_S:
            return False
        self._stage, self._sent_at = stage, now
        return True


class _Home:
    """A folder of this actor alone below `root`. Those of actors that were killed are removed first."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (root / "lock").open("wb") as everything:
            fcntl.flock(everything, fcntl.LOCK_EX)
            for other in root.glob("*.owner"):
                with other.open("rb") as owner:
                    if _locked(owner):
                        shutil.rmtree(other.with_suffix(""), ignore_errors=True)
                        other.unlink()
            descriptor, name = tempfile.mkstemp(suffix=".owner", dir=root)
            self._owner = os.fdopen(descriptor, "rb")  # held locked until the process ends
            _locked(self._owner)
        self._folder = Path(name).with_suffix("")

    def render(self, serial: int) -> Path:
        """The folder of a render; not made here."""
        return self._folder / str(serial)


class _StreamLog(logging.Handler):
    """Hands log records to the server, which writes them in its own format; Ray's own log has them, too."""

    def __init__(self, actor: EngineActor) -> None:
        super().__init__()
        self._actor = actor

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        self._actor.say(messages.LogLine(record.name, record.levelno, record.getMessage(), record.created, trace))


def on_this_machine(settings: Settings) -> Settings:
    """The server's settings but for what this machine's own environment says of itself (LIPSYNC_WEIGHTS_DIR, ...)."""
    own = Settings(_env_file=None)
    update = {name: getattr(own, name) for name in _OF_THE_MACHINE if name in own.model_fields_set}
    device = str(update.get("device", settings.device))
    # Ray shows each actor its own GPUs only, numbered from 0.
    update["device"] = "cuda" if device.startswith("cuda:") else device
    return settings.model_copy(update=update)


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lost_the_gpu(error: BaseException | None) -> bool:
    """Whether a CUDA error is behind `error`: every later call of this process would fail."""
    while error is not None:
        if isinstance(error, RuntimeError) and "CUDA error" in str(error):
            return True
        error = error.__cause__
    return False

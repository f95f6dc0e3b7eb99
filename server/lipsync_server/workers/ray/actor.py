"""The cluster's side of a worker: an actor that holds engines on its machine and renders one task at a time.

Runs inside a Ray worker process but knows nothing of Ray: worker.py makes an actor of the class. Files come and go
in pieces (files.py); what happens is told in the words of messages.py. The server's folders are not here: each
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.registry import Registry
from lipsync_server.errors import EngineUnavailable
from lipsync_server.settings import RenderSettings, Settings
from lipsync_server.workers import messages
from lipsync_server.workers.log_lines import LineHandler
from lipsync_server.workers.ray.files import Kept, Piece, Receiver, ResumeFiles, pieces
from lipsync_server.workers.task import RenderTask
from lipsync_server.workers.work import Say, Work

_LOOK_EVERY_S = 0.5
_OF_THE_MACHINE = ("weights_dir", "device", "lora")
VIDEO = "video.mp4"

FromActor = messages.FromWorker | Piece | Kept


@dataclass(frozen=True)
class MachineOffer:
    """What a machine can run. `default`: the engine to load, "" when none can run; `why` says which and why."""

    engines: tuple[EngineInfo, ...]
    default: str
    why: str


class EngineActor:
    """Engines on one machine. Calls come in several threads; engines are used in one thread only, always the same."""

    def __init__(self, settings: RenderSettings, registry: Registry) -> None:
        self._settings, self._registry = on_this_machine(settings), registry
        self._work = Work(registry, self._settings)
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._home = _Home(Path(tempfile.gettempdir()) / "lipsync-ray")
        self._receivers: dict[int, Receiver] = {}
        self._said: queue.SimpleQueue[messages.FromWorker] | None = None
        self._ended = threading.Event()
        root = logging.getLogger()
        root.addHandler(LineHandler(self._say))  # Ray's own log has the lines, too
        root.setLevel(self._settings.log_level.upper())

    def offer(self) -> MachineOffer:
        infos = tuple(self._registry.describe(self._settings))
        try:
            default, why = self._registry.choose(self._settings)
        except EngineUnavailable as error:
            default, why = "", error.detail
        return MachineOffer(infos, default, why)

    def lifeline(self) -> None:
        """Returns never: whoever waits for it learns that this actor has ended."""
        self._ended.wait()

    def load(self, name: str) -> Iterator[FromActor]:
        """Load engine `name`; ends with Loaded or LoadFailed."""
        for message in self._tell(lambda say: self._work.load(name, say)):
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
            for message in self._tell(lambda say: self._work.render(serial, local, say)):
                if isinstance(message, messages.Finished):
                    yield from pieces(local.output, VIDEO)
                elif isinstance(message, messages.Failed) or time.monotonic() - looked_at > _LOOK_EVERY_S:
                    yield from resume.news()
                    looked_at = time.monotonic()
                if message is not None:
                    yield message
        finally:
            self._receivers.pop(serial, None)
            shutil.rmtree(folder, ignore_errors=True)

    def drop(self, serial: int) -> None:
        """Forget the inputs of a render that will not come."""
        self._receivers.pop(serial, None)
        shutil.rmtree(self._home.render(serial), ignore_errors=True)

    def cancel(self, serial: int) -> None:
        self._work.cancel(serial)

    def _tell(self, work: Callable[[Say], bool]) -> Iterator[messages.FromWorker | None]:
        """Run `work` in the engine's thread; what it says as it comes, and None now and then in between."""
        said: queue.SimpleQueue[messages.FromWorker]
        said = self._said = queue.SimpleQueue()

        def run() -> None:
            if not work(said.put):
                self._ended.set()

        running = self._engine_thread.submit(run)
        try:
            while not (running.done() and said.empty()):
                try:
                    yield said.get(timeout=_LOOK_EVERY_S)
                except queue.Empty:
                    yield None
            running.result()
        finally:
            self._said = None

    def _say(self, message: messages.FromWorker) -> None:
        """Pass a message on with whatever streams to the server now, if anything does."""
        said = self._said
        if said is not None:
            said.put(message)


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


def on_this_machine(settings: RenderSettings) -> RenderSettings:
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

"""The cluster's side of a worker: an actor that holds engines on its machine and renders one task at a time.

This class runs in a Ray worker process but does not know Ray: executor.py makes an actor of it. Files are transferred
in pieces (files.py), progress as the messages of messages.py. This machine cannot reach the server's folders, so each
render has a folder of its own here, removed at the end of the render or by the next actor.
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
from lipsync_server.workers.environment import forget_secrets
from lipsync_server.workers.log_lines import LineHandler
from lipsync_server.workers.ray.files import Kept, Piece, Receiver, ResumeFiles, pieces
from lipsync_server.workers.ray.versions import Versions
from lipsync_server.workers.task import RenderTask
from lipsync_server.workers.work import Send, Work

_POLL_INTERVAL_S = 0.5
_OF_THE_MACHINE = ("weights_dir", "device", "lora")
_SPARE_BYTES = 32 * 1024 * 1024
VIDEO = "video.mp4"
SPEECH = "audio"
BESIDE = (".srt", ".vtt", ".sheet.jpg")
"""Endings of the files that a render makes with its video: captions, and the contact sheet of the check."""

FromActor = messages.FromWorker | Piece | Kept


@dataclass(frozen=True)
class MachineOffer:
    """The engines of a machine. default: the engine to load, "" when none can run. why: the reason for this default."""

    engines: tuple[EngineInfo, ...]
    default: str
    why: str
    versions: Versions


class EngineActor:
    """The engines on one machine. Ray calls the methods in several threads; only one thread uses the engines."""

    def __init__(self, settings: RenderSettings, registry: Registry) -> None:
        self._settings, self._registry = on_this_machine(settings), registry
        forget_secrets(os.environ)
        self._work = Work(registry, self._settings)
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._home = _Home(Path(tempfile.gettempdir()) / "lipsync-ray")
        self._receivers: dict[int, Receiver] = {}
        self._sent: queue.SimpleQueue[messages.FromWorker] | None = None
        self._ended = threading.Event()
        root = logging.getLogger()
        root.addHandler(LineHandler(self._pass_on))  # Ray's own log has these lines as well
        root.setLevel(self._settings.log_level.upper())

    def offer(self) -> MachineOffer:
        """The engines that this machine can run, and its software versions."""
        infos = tuple(self._registry.describe(self._settings))
        try:
            default, why = self._registry.choose(self._settings)
        except EngineUnavailable as error:
            default, why = "", error.detail
        return MachineOffer(infos, default, why, Versions.here())

    def lifeline(self) -> None:
        """Return only when this actor cannot continue. The pending call tells the caller when the actor has ended."""
        self._ended.wait()

    def load(self, name: str) -> Iterator[FromActor]:
        """Load engine `name`; ends with Loaded or LoadFailed."""
        yield from self._while_running(lambda say: self._work.load(name, say))

    def why_no_room(self, n_bytes: int) -> str | None:
        """The reason why this machine's temporary folder is too full for inputs of `n_bytes`; None if it has space."""
        free = shutil.disk_usage(self._home.root).free
        if free >= 2 * n_bytes + _SPARE_BYTES:
            return None
        return f"Only {free / 2**20:.0f} MiB are free in {self._home.root.parent}; free some space there."

    def receive(self, serial: int, piece: Piece) -> None:
        """Store a piece of an input of the next render, number `serial`."""
        receiver = self._receivers.setdefault(serial, Receiver(self._home.render(serial)))
        receiver.take(piece)

    def render(self, serial: int, task: RenderTask) -> Iterator[FromActor]:
        """Render `task`, whose files have been received as its image, audio, second_audio and scratch/.

        Yields the files of a resume point whenever a new one exists. Ends with the video in pieces and Finished, or
        with Failed.
        """
        folder = self._home.render(serial)
        local = replace(
            task,
            image=folder / "image",
            audio=folder / SPEECH,
            second_audio=folder / "second_audio" if task.second_audio is not None else None,
            output=folder / VIDEO,
            scratch=folder / "scratch",
            sheet=(folder / VIDEO).with_suffix(".sheet.jpg") if task.sheet is not None else None,
        )
        resume = ResumeFiles(local.scratch)
        sent_at = time.monotonic()
        try:
            for message in self._while_running(lambda say: self._work.render(serial, local, say)):
                if isinstance(message, messages.Finished):
                    yield from _made_with(local)
                    yield from pieces(local.output, VIDEO)
                elif isinstance(message, messages.Failed) or time.monotonic() - sent_at > _POLL_INTERVAL_S:
                    yield from resume.news()
                    sent_at = time.monotonic()
                yield message
        finally:
            self._receivers.pop(serial, None)
            shutil.rmtree(folder, ignore_errors=True)

    def drop(self, serial: int) -> None:
        """Remove the inputs of a render that will not start."""
        self._receivers.pop(serial, None)
        shutil.rmtree(self._home.render(serial), ignore_errors=True)

    def cancel(self, serial: int) -> None:
        """Stop render `serial` at its next cancellation check."""
        self._work.cancel(serial)

    def _while_running(self, work: Callable[[Send], bool]) -> Iterator[messages.FromWorker]:
        """Run `work` in the engine's thread; yields its messages, and Alive at intervals without messages."""
        sent: queue.SimpleQueue[messages.FromWorker]
        sent = self._sent = queue.SimpleQueue()

        def run() -> None:
            if not work(sent.put):
                self._ended.set()

        running = self._engine_thread.submit(run)
        try:
            while not (running.done() and sent.empty()):
                try:
                    yield sent.get(timeout=_POLL_INTERVAL_S)
                except queue.Empty:
                    yield messages.Alive()
            running.result()
        finally:
            self._sent = None

    def _pass_on(self, message: messages.FromWorker) -> None:
        """Add a message to the stream that the server reads now, if there is one."""
        sent = self._sent
        if sent is not None:
            sent.put(message)


def _made_with(task: RenderTask) -> Iterator[Piece]:
    """The files that a render made with its video, in pieces: captions, the sheet, and the speech of a text."""
    made = [task.output.with_suffix(ending) for ending in BESIDE] + ([task.audio] if task.ask.is_spoken else [])
    for path in made:
        if path.is_file():
            yield from pieces(path, path.name)


class _Home:
    """A folder below `root` that only this actor uses. Folders of killed actors are removed first."""

    def __init__(self, root: Path) -> None:
        self.root = root
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
        """The path of the folder of a render; this does not create the folder."""
        return self._folder / str(serial)


def on_this_machine(settings: RenderSettings) -> RenderSettings:
    """The server's settings, with the fields in _OF_THE_MACHINE from this machine's environment."""
    own = Settings(_env_file=None)
    update = {name: getattr(own, name) for name in _OF_THE_MACHINE if name in own.model_fields_set}
    device = str(update.get("device", settings.device))
    # Ray shows each actor its own GPUs only, numbered from 0.
    update["device"] = "cuda" if device.startswith("cuda:") else device
    return settings.model_copy(update=update)


def _locked(file: BinaryIO) -> bool:
    """Lock the file without waiting; returns whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

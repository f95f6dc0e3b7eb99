"""The worker process: holds engines loaded and renders one task at a time for the server that started it.

Started by process.py as `python -m lipsync_server.workers.child FD PARENT_PID`; talks over that pipe in messages.py's
words. Dies with its parent whatever happens to it, leaves Ctrl-C and termination to it, and yields the CPU to it.
"""

import contextlib
import ctypes
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from lipsync_server import errors
from lipsync_server.workers import messages
from lipsync_server.workers.render import in_words, render
from lipsync_server.workers.shelf import EngineShelf
from lipsync_server.workers.task import ProgressEvent

_PROGRESS_INTERVAL_S = 0.1
_NICENESS = 15
_OOM_SCORE = 500
_PR_SET_PDEATHSIG = 1
EXIT_POISONED = 70
"""Exit status after a CUDA error, which makes every later call of the process fail."""

log = logging.getLogger(__name__)


class Child:
    """Works off the server's messages: loads and renders in the main thread, listens in another."""

    def __init__(self, pipe: Connection, setup: messages.Setup) -> None:
        self._pipe, self._setup = pipe, setup
        self._shelf = EngineShelf(setup.registry, setup.settings)
        self._work: queue.SimpleQueue[messages.Load | messages.Render] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._sending = threading.Lock()
        self._sent_at = 0.0
        self._sent_stage = ""

    def run(self) -> None:
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self.send(messages.Started())
        while True:
            message = self._work.get()
            if isinstance(message, messages.Load):
                self._load(message.engine)
            else:
                self._render(message)

    def send(self, message: messages.FromWorker) -> None:
        with self._sending:
            self._pipe.send(message)

    def _listen(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the server is gone, and nobody waits for what the main thread is doing
            if isinstance(message, messages.Cancel):
                self._cancelled.add(message.serial)
            else:
                self._work.put(message)

    def _load(self, name: str) -> None:
        def report(stage: str, done: float, total: float) -> None:
            if self._due(stage):
                self.send(messages.Loading(name, stage, done, total))

        self.send(messages.Loading(name, "load", 0, 1))
        try:
            self._shelf.take(name).load(report)
        except Exception as error:
            if not isinstance(error, errors.LipsyncError):
                log.exception("engine %s could not be loaded", name)
            self._shelf.drop_unloaded()
            self.send(messages.LoadFailed(name, in_words(error, name)))
            _exit_if_poisoned(error)
        else:
            self.send(messages.Loaded(name))

    def _render(self, message: messages.Render) -> None:
        serial, task = message.serial, message.task

        def report(event: ProgressEvent) -> None:
            if self._due(event.stage):
                self.send(messages.Progress(serial, event))

        try:
            outcome = render(
                self._shelf.take(task.engine),
                task,
                report,
                lambda: serial in self._cancelled,
                self._setup.settings,
                options_model=self._setup.registry.options_model(task.engine),
            )
        except Exception as error:
            if not isinstance(error, errors.LipsyncError):
                log.exception("task %s could not be started", task.task_id)
            self._shelf.drop_unloaded()
            self.send(messages.Failed(serial, in_words(error, task.engine), self._shelf.holds()))
            _exit_if_poisoned(error)
        else:
            self.send(messages.Finished(serial, outcome, self._shelf.holds()))
        finally:
            self._cancelled.discard(serial)

    def _due(self, stage: str) -> bool:
        """Whether progress is to be sent now: a stage's first, then about ten a second."""
        now = time.monotonic()
        if stage == self._sent_stage and now - self._sent_at < _PROGRESS_INTERVAL_S:
            return False
        self._sent_at, self._sent_stage = now, stage
        return True


class _PipeLog(logging.Handler):
    """Hands log records to the server, which writes them in its own format."""

    def __init__(self, child: Child) -> None:
        super().__init__()
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        line = messages.LogLine(record.name, record.levelno, record.getMessage(), record.created, trace)
        try:
            self._child.send(line)
        except OSError:
            self.handleError(record)


def _exit_if_poisoned(error: BaseException) -> None:
    """End the process after a CUDA error: the context is lost, and the server starts a fresh worker."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RuntimeError) and "CUDA error" in str(seen):
            log.error("the CUDA context is lost; this worker ends and a fresh one starts")
            os._exit(EXIT_POISONED)
        seen = seen.__cause__


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)  # it died before the kernel was asked


def _yield_to_server() -> None:
    """Lower priority than the server's event loop, and the first to go when memory runs out."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def main() -> None:
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent_pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    _yield_to_server()
    faulthandler.enable()
    pipe = Connection(descriptor)
    try:
        setup = pipe.recv()
    except EOFError:
        return
    sys.path.extend(path for path in setup.module_path if path not in sys.path)
    child = Child(pipe, setup)
    logging.basicConfig(level=setup.settings.log_level.upper(), handlers=[_PipeLog(child)])
    child.run()


if __name__ == "__main__":
    main()

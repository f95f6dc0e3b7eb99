"""The worker process: holds engines loaded and renders one task at a time for the server that started it.

Started by child_process.py as `python -m lipsync_server.workers.process.child FD PARENT_PID`; sends and receives the
messages of messages.py over that pipe. The kernel kills this process when the server dies. Ctrl-C and SIGTERM are
ignored here; the server decides. It runs at a lower CPU priority than the server.
"""

import contextlib
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from lipsync_server.processes import end_with_parent, yield_to_server
from lipsync_server.workers import messages
from lipsync_server.workers.log_lines import LineHandler
from lipsync_server.workers.work import Work

_NICENESS = 15
_OOM_SCORE = 500
_HEARTBEAT_S = 5.0
EXIT_POISONED = 70
"""Exit status after a CUDA error: every later CUDA call of the process would fail."""


class Child:
    """Executes the server's messages.

    It loads and renders in the main thread, receives messages in a second thread, and sends heartbeats in a third."""

    def __init__(self, pipe: Connection, setup: messages.Setup) -> None:
        self._pipe = pipe
        self._work = Work(setup.registry, setup.settings)
        self._orders: queue.SimpleQueue[messages.Load | messages.Render] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._heartbeat_s = min(_HEARTBEAT_S, setup.settings.worker_silence_s / 8)

    def run(self) -> None:
        """Work until the server ends, or until a CUDA error makes this process useless."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self.send(messages.Started())
        while True:
            message = self._orders.get()
            if isinstance(message, messages.Load):
                can_continue = self._work.load(message.engine, self.send)
            else:
                can_continue = self._work.render(message.serial, message.task, self.send)
            if not can_continue:
                os._exit(EXIT_POISONED)

    def send(self, message: messages.FromWorker) -> None:
        """Send a message to the server; may be called in any thread."""
        with self._sending:
            self._pipe.send(message)

    def _beat(self) -> None:
        """Send a heartbeat at intervals, which proves that this process runs while the main thread is busy."""
        while True:
            time.sleep(self._heartbeat_s)
            self.send(messages.Alive())

    def _receive(self) -> None:
        """Read messages as they come. The end of the pipe ends the process, also in the middle of a render."""
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the server has ended, so the main thread's work is no longer needed
            if isinstance(message, messages.Cancel):
                self._work.cancel(message.serial)
            else:
                self._orders.put(message)


def _lower_priority() -> None:
    """Run at a lower CPU priority than the server, and be the first process that the kernel kills without memory."""
    yield_to_server(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def main() -> None:
    """Receive the Setup message over the pipe, then execute the server's messages."""
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    end_with_parent(parent_pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    _lower_priority()
    faulthandler.enable()
    pipe = Connection(descriptor)
    try:
        setup = pipe.recv()
    except EOFError:
        return
    sys.path.extend(path for path in setup.module_path if path not in sys.path)
    child = Child(pipe, setup)
    logging.basicConfig(level=setup.settings.log_level.upper(), handlers=[LineHandler(child.send)])
    child.run()


if __name__ == "__main__":
    main()

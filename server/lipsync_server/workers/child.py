"""The worker process: holds engines loaded and renders one task at a time for the server that started it.

Started by process.py as `python -m lipsync_server.workers.child FD PARENT_PID`; talks over that pipe in messages.py's
words. The kernel kills this process when the server dies. Ctrl-C and SIGTERM are ignored here; the server decides. It
runs at a lower CPU priority than the server.
"""

import contextlib
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from lipsync_server.processes import end_with_parent
from lipsync_server.workers import messages
from lipsync_server.workers.log_lines import LineHandler
from lipsync_server.workers.work import Work

_NICENESS = 15
_OOM_SCORE = 500
EXIT_POISONED = 70
"""Exit status after a CUDA error, which makes every later call of the process fail."""


class Child:
    """Works off the server's messages: loads and renders in the main thread, listens in another."""

    def __init__(self, pipe: Connection, setup: messages.Setup) -> None:
        self._pipe = pipe
        self._work = Work(setup.registry, setup.settings)
        self._told: queue.SimpleQueue[messages.Load | messages.Render] = queue.SimpleQueue()
        self._sending = threading.Lock()

    def run(self) -> None:
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self.send(messages.Started())
        while True:
            message = self._told.get()
            if isinstance(message, messages.Load):
                can_go_on = self._work.load(message.engine, self.send)
            else:
                can_go_on = self._work.render(message.serial, message.task, self.send)
            if not can_go_on:
                os._exit(EXIT_POISONED)

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
                self._work.cancel(message.serial)
            else:
                self._told.put(message)


def _yield_to_server() -> None:
    """Lower priority than the server's event loop, and the first to go when memory runs out."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def main() -> None:
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    end_with_parent(parent_pid)
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
    logging.basicConfig(level=setup.settings.log_level.upper(), handlers=[LineHandler(child.send)])
    child.run()


if __name__ == "__main__":
    main()

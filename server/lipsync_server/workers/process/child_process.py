"""The server's side of one child process: starts it, forwards its messages, waits for its end.

Each child has a thread in the server, so that the event loop never blocks on a pipe. Knows the pipe and the operating
system. Does not know the meaning of the messages (executor.py).
"""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from lipsync_server.workers import messages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Died:
    """The child has ended. status: its exit status, negative for a signal, as in subprocess."""

    status: int


class ChildProcess(threading.Thread):
    """The thread of one child process.

    post: called in this thread with every message, and with Died at the end. The thread that starts a child must
    outlive it, because the kernel treats the end of that thread as the death of the parent (PR_SET_PDEATHSIG).
    """

    def __init__(
        self,
        name: str,
        setup: messages.Setup,
        environment: dict[str, str],
        post: Callable[[messages.FromWorker | Died], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._setup, self._environment, self._post = setup, environment, post
        self._pipe: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Start the process, forward its messages and wait for its end. The body of the thread."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            pipe = self._pipe = Connection(ours.detach())
            try:
                process = self._process = self._start_process(theirs)
            except OSError as error:
                log.error("a worker process could not be started: %s", error)
                pipe.close()
                self._post(Died(os.EX_OSERR))
                return
            if self._killed:
                process.kill()
        atexit.register(process.kill)
        try:
            pipe.send(self._setup)
            while True:
                self._post(pipe.recv())
        except (EOFError, OSError, RuntimeError):
            pass  # the child has ended, or the event loop is closed
        finally:
            process.kill()
            status = process.wait()
            atexit.unregister(process.kill)
            pipe.close()
        try:
            self._post(Died(status))
        except RuntimeError:
            log.debug("the event loop was closed before the worker ended")

    def _start_process(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        # -P: do not import modules from the server's working folder.
        command = [
            sys.executable,
            "-P",
            "-m",
            "lipsync_server.workers.process.child",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        return subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,  # Ctrl-C in a terminal must reach only the server
        )

    def send(self, message: messages.ToWorker) -> None:
        """Send `message`. A message is far smaller than the pipe's buffer, so this does not wait for the child."""
        if self._pipe is not None:
            try:
                self._pipe.send(message)
            except OSError:
                log.debug("the worker ended before it got %s", type(message).__name__)

    def kill(self) -> None:
        """Kill the process, also one that is only being started."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()


def cause_of_death(status: int) -> str:
    """Why a process ended, in words. status: as in Died."""
    if status == -signal.SIGKILL:
        return "it was killed (SIGKILL), most often because the machine ran out of memory"
    if status < 0:
        try:
            return f"it crashed with {signal.Signals(-status).name}"
        except ValueError:
            return f"it was ended by signal {-status}"
    return f"it ended with status {status}; the log has the reason"

"""The server's side of one child process: starts it, forwards its messages, waits for its end.

Each child has two threads in the server, one that receives and one that sends, so that the event loop never blocks on
a pipe: a child that is stopped reads nothing, and a long script fills its pipe. Knows the pipe and the operating
system. Does not know the meaning of the messages (executor.py).
"""

import atexit
import logging
import os
import queue
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

_END_S = 2.0
"""Time between the end of a child's pipe and the end of its process, which the kernel closes in this order."""


@dataclass(frozen=True)
class Died:
    """The child has ended. status: its exit status, negative for a signal, as in subprocess.

    why: the reason for which the server ended the child, as the end of a sentence; "" when the child ended by itself.
    """

    status: int
    why: str = ""


class ChildProcess(threading.Thread):
    """The receiving thread of one child process.

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
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._lock = threading.Lock()
        self._outbox: queue.SimpleQueue[messages.ToWorker | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Start the process, forward its messages and wait for its end. The body of the thread."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            pipe = Connection(os.dup(ours.fileno()))
            try:
                process = self._process = self._start_process(theirs)
            except OSError as error:
                log.error("a worker process could not be started: %s", error)
                pipe.close()
                ours.close()
                self._post(Died(os.EX_OSERR))
                return
            if self._killed:
                process.kill()
        atexit.register(process.kill)
        self._outbox.put(self._setup)
        sender = threading.Thread(target=self._send_all, args=(pipe,), name=f"{self.name} sender", daemon=True)
        sender.start()
        why = ""
        try:
            while True:
                self._post(_message(pipe.recv()))
        except (EOFError, OSError):
            why = self._await_end(process)
        except RuntimeError:
            log.debug("the event loop was closed before the worker ended")
        except Exception as error:  # bytes that are no message raise nearly any error when they are read
            log.exception("a worker process sent bytes that are no message")
            why = f"it sent bytes that are no message ({type(error).__name__}: {error})"
        finally:
            process.kill()
            status = process.wait()
            atexit.unregister(process.kill)
            ours.shutdown(socket.SHUT_RDWR)  # a send() that still waits ends now
            self._outbox.put(None)
            sender.join()
            pipe.close()
            ours.close()
        try:
            self._post(Died(status, why))
        except RuntimeError:
            log.debug("the event loop was closed before the worker ended")

    def _await_end(self, process: "subprocess.Popen[bytes]") -> str:
        """Wait for the end of a process whose pipe is closed; returns why the server has to end it, "" if not."""
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "" if self._killed else "it closed its connection to the server and did not end"
        return ""

    def _send_all(self, pipe: Connection) -> None:
        """Send the messages in their order until the child has ended. The body of the sending thread."""
        while (message := self._outbox.get()) is not None:
            try:
                pipe.send(message)
            except OSError:
                log.debug("the worker ended before it got %s", type(message).__name__)

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
        """Send `message` after all earlier ones; returns at once, also when the child does not read its pipe."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Kill the process, also one that is only being started."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()


def _message(received: object) -> messages.FromWorker:
    """`received`, if it is a message. Raises TypeError for any other object."""
    if not isinstance(received, messages.FromWorker):
        raise TypeError(f"a {type(received).__name__} is no message")
    return received


def cause_of_death(death: Died) -> str:
    """Why a process ended, in words."""
    status = death.status
    if death.why:
        return death.why
    if status == -signal.SIGKILL:
        return "it was killed (SIGKILL), most often because the machine ran out of memory"
    if status < 0:
        try:
            return f"it crashed with {signal.Signals(-status).name}"
        except ValueError:
            return f"it was ended by signal {-status}"
    return f"it ended with status {status}; the log has the reason"

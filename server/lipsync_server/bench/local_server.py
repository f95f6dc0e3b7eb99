"""A server in a process of its own on loopback: start it, wait for it, stop or kill it, start it again.

The benchmarks and the tests use this module. Knows processes and addresses; knows no request to the server.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from lipsync_server.errors import LipsyncError

SERVE = (sys.executable, "-P", "-m", "lipsync_server.cli", "serve")
STOP_S = 30.0
_POLL_INTERVAL_S = 0.05


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago.

    Linux uses ports from 32768 for outgoing connections and for processes that ask for any port. The port lies below
    them, so that it is still free when the server starts.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@dataclass
class LocalServer:
    """`lipsync serve`, or another program that serves, at one port and with one data folder.

    settings: by their names without LIPSYNC_. environment: further variables. inherits: whether LIPSYNC_* variables of
    this process count, too. log: file to which the server's output is added; None leaves its errors on the terminal.
    """

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    inherits: bool = False
    command: Sequence[str] = SERVE
    folder: Path | None = None
    log: Path | None = None
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """The server's address, such as http://127.0.0.1:20123."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process. Returns before the process listens."""
        settings = {"HOST": "127.0.0.1", "DATA_DIR": str(self.data_dir), "PORT": str(self.port), **self.settings}
        own = {name: value for name, value in os.environ.items() if self.inherits or not name.startswith("LIPSYNC_")}
        environment = {**own, **{f"LIPSYNC_{name}": value for name, value in settings.items()}, **self.environment}
        if self.log is None:
            self.process = subprocess.Popen(
                self.command, env=environment, cwd=self.folder, stdout=subprocess.DEVNULL
            )  # fmt: skip
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=environment, cwd=self.folder, stdout=log, stderr=log)

    def wait_until_it_answers(self, path: str, timeout_s: float) -> None:
        """Wait for the status 200 at `path`. Raises LipsyncError when the process ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check_that_it_runs()
            try:
                with urlopen(self.url + path, timeout=5):  # noqa: S310 - our own address
                    return
            except (HTTPError, URLError, TimeoutError, ConnectionError):
                time.sleep(_POLL_INTERVAL_S)
        raise LipsyncError(f"The server did not answer at {path} within {timeout_s:g} s{self._last_words()}")

    def wait_until_it_listens(self, timeout_s: float) -> None:
        """Wait until the port accepts connections; raises LipsyncError when the process ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check_that_it_runs()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(_POLL_INTERVAL_S)
        raise LipsyncError(f"The server did not listen within {timeout_s:g} s{self._last_words()}")

    def check_that_it_runs(self) -> None:
        """Raise LipsyncError, with the end of its log, when the process has ended."""
        if self.process is None or self.process.poll() is not None:
            raise LipsyncError(f"The server ended{self._last_words()}")

    def kill(self) -> None:
        """End the server with SIGKILL, so that it cannot clean up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Stop the server with SIGTERM, and kill it when the time is over. Returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def _last_words(self) -> str:
        """The end of a message: the last lines of the log, if there is one."""
        if self.log is None or not self.log.exists():
            return "; its error is above."
        return f": {self.log.read_text(errors='replace')[-3000:]}"

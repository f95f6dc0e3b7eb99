"""A Ray cluster of real processes on this machine, to be really killed: a head that does no work, and nodes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil
from server_process import free_port

START_S = 240
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-the-tests"}
"""Environment variables that every process of the cluster needs."""
OBJECT_STORE_BYTES = 100 * 1024 * 1024
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass
class RayNodes:
    """folder: a short path, because sockets lie below it. A node is known by the name that start() gave it."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_head(self) -> None:
        """Start the head. Ray starts none while a raylet of this computer names its address, as after a lost head."""
        end = time.monotonic() + START_S
        while any(one.name() == "raylet" for node in self.processes for one in self._children(node)):
            assert time.monotonic() < end, "a raylet does not notice that its head is lost"
            time.sleep(0.2)
        where = [f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false", "--no-monitor"]
        self._start("head", "--head", "--num-cpus=0", *where)
        self.wait("head")

    def start(
        self, name: str, *, n_cpus: int = 1, loop: bool = False, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a node. Call wait() before the next one: nodes choose their sockets' names while they start.

        n_cpus: cores that Ray counts, of which there may be more than the machine has. loop: start Ray again whenever
        it ends, as docs/cluster.md does. environment: variables of this node alone.
        """
        flags = (f"--address={self.address}", f"--num-cpus={n_cpus}")
        self._start(name, *flags, loop=loop, environment=environment or {})

    def only(self, *names: str, loop: bool = False) -> None:
        """Kill every machine except the head and these. Start the ones that do not run, as start() does, and wait."""
        for name in set(self.processes) - {"head", *names}:
            self.kill(name)
        for name in names:
            if name not in self.processes:
                self.start(name, loop=loop)
                self.wait(name)

    def wait(self, name: str) -> None:
        log, end = self._log(name), time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            assert self.processes[name].poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """kill -9 of all processes of the node, at once."""
        children = self._children(name)
        process = self.processes.pop(name)
        process.kill()
        for one in children:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait()

    def actors(self, name: str) -> list[psutil.Process]:
        """The processes on the node that hold engines."""
        return [one for one in self._children(name) if "EngineActor" in "".join(one.cmdline())]

    def raylet(self, name: str) -> psutil.Process:
        """The process by which Ray reaches the node."""
        return next(one for one in self._children(name) if one.name() == "raylet")

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def _start(
        self, name: str, *flags: str, loop: bool = False, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [
            ray,
            "start",
            "--block",
            f"--node-name={name}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--include-log-monitor=false",  # a process that sends Ray's log files to Ray's own page
            *flags,
        ]
        if loop:
            command = ["sh", "-c", f"while true; do {shlex.join(command)}; sleep 1; done"]
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **_ENVIRONMENT, **TOKEN, **environment},
                start_new_session=True,
            )

    def _children(self, name: str) -> list[psutil.Process]:
        """All processes of the node below its first one; none when that one has ended."""
        try:
            children: list[psutil.Process] = psutil.Process(self.processes[name].pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return children

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

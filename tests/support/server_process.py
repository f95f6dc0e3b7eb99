"""A server in a process of its own, to be really killed: `lipsync serve`, or the same with the stand-in engine.

`python server_process.py` serves the stand-in with checkpoints, in real worker processes, by LIPSYNC_* settings.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

SUPPORT = Path(__file__).parent
START_S = 60


@dataclass
class ServerProcess:
    """Starts, kills and starts again on the same port and data folder.

    engine: "bars" for the stand-in, anything else for the product's own. options: settings without their LIPSYNC_.
    """

    data_dir: Path
    engine: str = "bars"
    options: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.data_dir.parent / "server.log"

    def start(self) -> None:
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "DATA_DIR": str(self.data_dir),
            "PORT": str(self.port),
            "MIN_FREE_DISK_BYTES": "0",
            "ALLOW_PRIVATE_URLS": "true",
            **self.options,
        }
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LIPSYNC_")},
            **{f"LIPSYNC_{name}": value for name, value in settings.items()},
            **self.environment,
        }
        program = [__file__] if self.engine == "bars" else ["-m", "lipsync_server.cli", "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program], env=environment, stdout=log, stderr=log, cwd=SUPPORT
            )

    @contextmanager
    def running(self) -> Iterator["ServerProcess"]:
        """From when the server listens until it is killed."""
        self.start()
        try:
            end = time.monotonic() + START_S
            while not self._listens():
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < end, self.log.read_text()[-3000:]
                time.sleep(0.02)
            yield self
        finally:
            self.kill()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def answers(self, session: aiohttp.ClientSession, path: str = "/healthz") -> None:
        """Wait until the server answers 200 at `path`."""
        async with asyncio.timeout(START_S):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                try:
                    async with session.get(self.url + path) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """kill -9: nothing gets to say goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As a container is stopped; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    from lipsync_server.engines.registry import EngineEntry, Registry
    from lipsync_server.http.serve import serve
    from lipsync_server.settings import Settings

    serve(Settings(_env_file=None), Registry({"bars": EngineEntry("stand_in")}))


if __name__ == "__main__":
    main()

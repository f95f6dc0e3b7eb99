"""A server in a process of its own, to be really killed: `lipsync serve`, or the same with the engines of these tests.

`python server_process.py bars` serves the stand-in, which saves resume points, and the engine `takes`, in real worker
processes, by LIPSYNC_* settings; `python server_process.py small` serves InfiniteTalk with small videos.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
from lipsync_server.bench.local_server import SERVE, LocalServer, free_port

__all__ = ["ServerProcess", "free_port"]

SUPPORT = Path(__file__).parent
START_S = 120
WORKER = "lipsync_server.workers.process.child"


class ServerProcess(LocalServer):
    """Starts, kills and starts again on the same port and data folder; its output goes to a log beside the folder.

    engine: "bars" for the engines of these tests, "small" for InfiniteTalk with small videos, any other name for the
    product's own. options: settings without their LIPSYNC_.
    """

    def __init__(
        self,
        data_dir: Path,
        engine: str = "bars",
        options: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            data_dir,
            {"MIN_FREE_DISK_BYTES": "0", "ALLOW_PRIVATE_URLS": "true", **(options or {})},
            environment or {},
            command=(sys.executable, __file__, engine) if engine in ("bars", "small") else SERVE,
            folder=SUPPORT,
            log=data_dir.parent / "server.log",
        )

    @contextmanager
    def running(self) -> Iterator["ServerProcess"]:
        """From when the server listens until it is killed."""
        self.start()
        try:
            self.wait_until_it_listens(START_S)
            yield self
        finally:
            self.kill()

    async def answers(self, session: aiohttp.ClientSession, path: str = "/healthz") -> None:
        """Wait until the server answers 200 at `path`."""
        async with asyncio.timeout(START_S):
            while True:
                self.check_that_it_runs()
                try:
                    async with session.get(self.url + path) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    def output(self) -> str:
        """The whole log of the server."""
        assert self.log is not None
        return self.log.read_text()

    async def ended_by_itself(self, timeout_s: float = START_S) -> int:
        """Wait until the server ends without a signal; returns the exit status."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, timeout_s)

    def workers(self) -> list[psutil.Process]:
        """The processes that hold engines; decoder processes are children of the server too."""
        assert self.process is not None
        try:
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if WORKER in child.cmdline()]
        except psutil.NoSuchProcess:
            return []


# The fixture `make_server`: makes a server with the options that it is called with.
MakeServer = Callable[..., ServerProcess]


def main() -> None:
    from lipsync_server.engines.registry import EngineEntry, Registry
    from lipsync_server.http.serve import serve
    from lipsync_server.settings import Settings

    packages = {"bars": "stand_in", "takes": "takes"}
    if sys.argv[1] == "small":
        packages = {"infinitetalk": "small_infinitetalk"}
    serve(Settings(_env_file=None), Registry({name: EngineEntry(package) for name, package in packages.items()}))


if __name__ == "__main__":
    main()

"""Servers as processes."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from ray_client import Client
from ray_nodes import RayNodes
from s3_server import Bucket, ready_bucket, s3_process
from server_process import MakeServer, ServerProcess


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Makes servers that are not started yet. At the end every server that still runs is killed."""
    servers: list[ServerProcess] = []

    def make(engine: str = "bars", **options: str) -> ServerProcess:
        servers.append(ServerProcess(tmp_path / "data", engine, options))
        return servers[-1]

    yield make
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # Connections are not reused, because each restart puts a new server behind the same address.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """An empty bucket of a real S3 server."""
    with s3_process(tmp_path_factory.mktemp("s3") / "data") as port:
        yield asyncio.run(ready_bucket(port))


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A Ray cluster of one head for a module, without another machine."""
    # Not pytest's own folder: the names of Ray's sockets may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = RayNodes(folder)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def client(session: aiohttp.ClientSession) -> AsyncIterator[Callable[[ServerProcess], Client]]:
    yield lambda server: Client(server.url, session)

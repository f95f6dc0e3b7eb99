"""Servers as processes."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from server_process import ServerProcess


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Makes servers, not yet started; what still runs at the end is killed."""
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
    # Connections are not kept: the server at the other end is a new one all the time.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session

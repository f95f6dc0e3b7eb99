"""Servers in this process, with the stand-in workers of support/site_kit.py."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from call_receiver import CallReceiver, call_receiver
from lipsync_server.http.app import create_app
from lipsync_server.http.inputs.fetch import Fetcher
from lipsync_server.jobs.delivery import callbacks
from lipsync_server.jobs.running.finish import AfterRender
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.settings import Settings
from site_kit import Site, StandInExecutor, Start


@pytest.fixture(scope="session")
def decoders() -> Iterator[DecoderPool]:
    """Decoder processes for all servers of a test run, which are many and short."""
    pool = DecoderPool()
    yield pool
    pool.close()


@pytest.fixture
async def start(tmp_path: Path, decoders: DecoderPool) -> AsyncIterator[Start]:
    """Starts servers: `await start(max_queue=1)`; the same data folder each time."""
    clients: list[TestClient[web.Request, web.Application]] = []

    async def start_one(
        *,
        executor: StandInExecutor | None = None,
        fetcher: Fetcher | None = None,
        after_render: AfterRender | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Site:
        options = {"data_dir": tmp_path / "data", "min_free_disk_bytes": 0, "shutdown_grace_s": 0.0, **options}
        settings = Settings(_env_file=None, **options)
        executor = executor or StandInExecutor()
        app = create_app(settings, executor, fetcher=fetcher, after_render=after_render, decoders=decoders)
        client = TestClient(TestServer(app), headers=headers, timeout=aiohttp.ClientTimeout(total=60))
        clients.append(client)
        await client.start_server()
        return Site(client, executor, settings, settings.data_dir)

    yield start_one
    for client in clients:
        await client.close()


@pytest.fixture
async def site(start: Start) -> Site:
    return await start()


@pytest.fixture
async def receiver() -> AsyncIterator[CallReceiver]:
    async with call_receiver() as receiver:
        yield receiver


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was not accepted is repeated after thousandths of the product's pauses."""
    monkeypatch.setattr(callbacks, "_FIRST_PAUSE_S", 0.002)

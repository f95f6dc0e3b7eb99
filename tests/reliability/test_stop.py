"""SIGTERM ends the server within its grace time, also while a volume hangs, and no job is lost by it.

The volumes are real: FUSE file systems that are frozen (freezing_volume.py) or never answer (stuck_volume.py).
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from freezing_volume import FreezingVolume, why_not
from lipsync_server.http.stop_limit import TIDY_UP_S
from model_hub import digest, serve_hub
from server_process import ServerProcess
from site_kit import form, wav
from stuck_volume import stuck_volume

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

GRACE_S = 1
AT_MOST_S = GRACE_S + TIDY_UP_S + 5
"""The server's own limit, and time for the kernel and a busy machine to end a process."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FreezingVolume]:
    """A volume for the folder `volume`."""
    for name in ("backing", "volume"):
        (tmp_path / name).mkdir()
    with FreezingVolume(tmp_path / "backing", tmp_path / "volume") as mounted:
        yield mounted


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def ended_in_time(server: ServerProcess) -> int:
    """Send SIGTERM; returns the exit status. Fails when the process is there after its grace time."""
    assert server.process is not None
    workers = server.workers()
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    status = await asyncio.to_thread(server.process.wait, AT_MOST_S)
    print(f"ended after {time.monotonic() - began:.1f} s with status {status}")
    for worker in workers:
        await asyncio.to_thread(worker.wait, 20)
    return status


async def test_a_server_whose_data_folder_hangs_ends_and_the_next_one_continues(
    disk: FreezingVolume, session: aiohttp.ClientSession
) -> None:
    server = ServerProcess(disk.folder, options={"SHUTDOWN_GRACE_S": str(GRACE_S)})
    with server.running():
        await server.answers(session)
        slow = {"options": json.dumps({"seconds_per_frame": 0.2})}
        async with session.post(f"{server.url}/v1/jobs", data=form(audio=wav(2.0), **slow)) as response:
            job_id = (await response.json())["id"]
        await until(lambda: is_running(server, session, job_id))
        disk.freeze()
        upload = asyncio.create_task(upload_until_cut(server, session))
        try:
            assert await ended_in_time(server) == 1
        finally:
            disk.thaw()
        await upload
    assert "Jobs and videos are kept" in (disk.folder.parent / "server.log").read_text()

    with server.running():
        await server.answers(session)
        async with session.get(f"{server.url}/v1/jobs/{job_id}/events") as response:
            assert "event: end" in await response.text()
        async with session.get(f"{server.url}/v1/jobs/{job_id}") as response:
            assert (await response.json())["state"] == "succeeded"
        assert await ended_in_time(server) == 0


async def test_a_server_whose_weights_folder_hangs_during_the_download_ends(
    disk: FreezingVolume, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data = bytes(4 << 20)
    source = {"repository": "some/model", "revision": "main", "folder": "sadtalker", "licence": "x", "what": "x"}
    file = {"source": "s", "path": "big", "size_bytes": len(data), "size_exact": True, "sha256": digest(data)}
    profile = {"engine": "sadtalker", "title": "tiny", "files": ["big"]}
    manifest = {"version": 1, "sources": {"s": source}, "files": {"big": file}, "profiles": {"tiny": profile}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    async with serve_hub({"big": data}) as hub:
        hub.open.clear()
        options = {
            "SHUTDOWN_GRACE_S": str(GRACE_S),
            "PROFILE": "tiny",
            "MANIFEST": str(tmp_path / "manifest.json"),
            "WEIGHTS_DIR": str(disk.folder),
        }
        server = ServerProcess(tmp_path / "data", "product", options, {"HF_ENDPOINT": hub.url})
        with server.running():
            await until(lambda: downloads(server, session))
            disk.freeze()
            hub.open.set()
            try:
                assert await ended_in_time(server) == 1
            finally:
                disk.thaw()


async def test_a_server_that_still_starts_ends_at_once(tmp_path: Path) -> None:
    """The start waits for LIPSYNC_STORE, whose volume never answers."""
    (tmp_path / "store").mkdir()
    server = ServerProcess(tmp_path / "data", options={"STORE": str(tmp_path / "store")})
    with stuck_volume(tmp_path / "store"):
        server.start()
        try:
            await until(lambda: exists(tmp_path / "data" / "lipsync.db"))
            assert await ended_in_time(server) == 0
        finally:
            server.kill()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while True:
            if await true():
                return
            await asyncio.sleep(0.05)


async def exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)


async def is_running(server: ServerProcess, session: aiohttp.ClientSession, job_id: str) -> bool:
    async with session.get(f"{server.url}/v1/jobs/{job_id}") as response:
        return bool((await response.json())["state"] == "running")


async def downloads(server: ServerProcess, session: aiohttp.ClientSession) -> bool:
    async with session.get(f"{server.url}/readyz") as response:
        return bool((await response.json()).get("bytes_total"))


async def upload_until_cut(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    """An upload that the stuck volume holds up; the connection ends with the server."""
    try:
        async with session.post(f"{server.url}/v1/jobs", data=form()) as response:
            await response.read()
    except aiohttp.ClientError:
        pass

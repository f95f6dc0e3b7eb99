"""The data folder's volume hangs, fails or is emptied under a running server: requests are answered, nothing is lost.

The volume is real: a FUSE file system that is frozen, or killed and mounted again (freezing_volume.py).
"""

import asyncio
import contextlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from freezing_volume import FreezingVolume, why_not
from lipsync_server.errors import LipsyncError
from lipsync_server.http import volume as http_volume
from lipsync_server.jobs import volume
from lipsync_server.jobs.lock import DataLock
from site_kit import Site, Start, form

NEED_THE_VOLUME = (
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{done}/video"),
    ("GET", "/v1/jobs/{done}/link"),
    ("GET", "/v1/jobs/{done}/captions.srt"),
    ("GET", "/v1/jobs/{waiting}/events"),
    ("GET", "/v1/jobs/{waiting}/stream"),
    ("POST", "/v1/jobs/{done}/collected"),
    ("POST", "/v1/jobs"),
    ("POST", "/lipsync"),
    ("DELETE", "/v1/jobs/{waiting}"),
    ("GET", "/metrics"),
    ("GET", "/v1/engines"),
)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FreezingVolume]:
    """The volume of the folder `data`, whose hangs are noticed in less than a second."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(volume, "STUCK_S", 0.5)
    monkeypatch.setattr(volume, "_POLL_INTERVAL_S", 0.2)
    monkeypatch.setattr(http_volume, "_POLL_INTERVAL_S", 0.1)
    for name in ("backing", "data"):
        (tmp_path / name).mkdir()
    with FreezingVolume(tmp_path / "backing", tmp_path / "data") as mounted:
        yield mounted


async def until_ready(site: Site, status: int) -> str:
    """Wait until /readyz answers with `status`; returns its sentence."""
    async with asyncio.timeout(30):
        while True:
            async with site.client.get("/readyz") as response:
                answer = await response.json()
                if response.status == status:
                    return str(answer["detail"])
            await asyncio.sleep(0.05)


async def until_error(site: Site, words: str) -> None:
    """Wait until the sentence of /readyz has these words."""
    async with asyncio.timeout(30):
        while words not in await until_ready(site, 503):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)


async def until_accepted(site: Site, n_jobs: int) -> None:
    """Wait until so many jobs are there and no request that made one still holds a folder."""
    async with asyncio.timeout(20):
        while True:
            async with site.client.get("/v1/jobs") as response:
                jobs = (await response.json())["jobs"]
                if len(jobs) == n_jobs and not any(path.startswith("incoming/") for path in site.left_on_disk()):
                    return
            await asyncio.sleep(0.05)


async def ask(site: Site, method: str, path: str) -> tuple[int, str]:
    body = form() if method == "POST" and not path.endswith("collected") else None
    async with site.client.request(method, path, data=body, timeout=aiohttp.ClientTimeout(total=20)) as response:
        is_problem = response.content_type == "application/problem+json"
        return response.status, (await response.json())["code"] if is_problem else ""


async def test_every_request_is_answered_and_no_job_is_lost_while_the_volume_hangs(
    start: Start, disk: FreezingVolume
) -> None:
    site = await start()
    done = (await site.ended((await site.submit())["id"]))["id"]
    site.executor.rendering.clear()
    running = (await site.submit(prompt="hold"))["id"]
    await site.executor.rendering.wait()
    waiting = (await site.submit())["id"]
    blocking = asyncio.create_task(ask_for_video(site))
    await until_accepted(site, 4)

    disk.freeze()
    try:
        assert "LIPSYNC_DATA_DIR" in await until_ready(site, 503)
        answers = await asyncio.gather(
            *(ask(site, method, path.format(done=done, waiting=waiting)) for method, path in NEED_THE_VOLUME)
        )
        for (method, _), answer in zip(NEED_THE_VOLUME, answers, strict=True):
            assert answer in allowed(method)
        async with site.client.get("/healthz") as response:
            assert response.status == 200
        site.executor.let_go.set()
    finally:
        disk.thaw()

    await until_ready(site, 200)
    assert (await site.ended(running))["state"] == "succeeded"
    assert (await site.job(done))["state"] == "succeeded"
    # The cancellation that was answered 503 may still happen, as the answer announces.
    assert (await site.ended(waiting))["state"] in ("succeeded", "cancelled")
    assert await blocking == 200


def allowed(method: str) -> set[tuple[int, str]]:
    """The answers that a request may get while the volume is away. A read may succeed from cached pages."""
    return {(503, "volume_stuck")} | ({(200, "")} if method == "GET" else set())


async def ask_for_video(site: Site) -> int:
    async with site.client.post("/lipsync", data=form()) as response:
        await response.read()
        return response.status


async def test_a_volume_that_was_mounted_again_is_used_and_no_job_failed(start: Start, disk: FreezingVolume) -> None:
    site = await start()
    done = (await site.ended((await site.submit())["id"]))["id"]
    site.executor.rendering.clear()
    running = (await site.submit(prompt="hold"))["id"]
    await site.executor.rendering.wait()

    disk.die()
    assert "LIPSYNC_DATA_DIR" in await until_ready(site, 503)
    for method, path in NEED_THE_VOLUME:
        assert await ask(site, method, path.format(done=done, waiting=running)) in allowed(method)
    site.executor.let_go.set()
    await site.executor.failed.wait()  # the worker cannot write the video that it rendered
    disk.unmount()
    await until_error(site, "is not mounted")
    disk.mount()

    await until_ready(site, 200)
    ended = await site.ended(running)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 2)
    async with site.client.get(f"/v1/jobs/{done}/video") as response:
        assert response.status == 200
    assert (await site.ended((await site.submit())["id"]))["state"] == "succeeded"


async def test_a_volume_that_became_read_only_is_named_and_no_job_failed(start: Start, disk: FreezingVolume) -> None:
    site = await start()
    done = (await site.ended((await site.submit())["id"]))["id"]
    site.executor.rendering.clear()
    running = (await site.submit(prompt="hold"))["id"]
    await site.executor.rendering.wait()
    disk.forbid_writing()
    assert await ask(site, "POST", "/v1/jobs") == (503, "volume_stuck")
    assert "Read-only" in await until_ready(site, 503)
    assert await ask(site, "DELETE", f"/v1/jobs/{done}") == (503, "volume_stuck")
    async with site.client.get(f"/v1/jobs/{done}/video") as response:
        assert response.status == 200
    site.executor.let_go.set()
    await site.executor.failed.wait()
    disk.allow_writing()
    await until_ready(site, 200)
    ended = await site.ended(running)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 2)
    assert (await site.job(done))["state"] == "succeeded"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder `data` with room for 4 MiB, and a path on the same volume for a file that fills it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(folder)], check=True)
    yield folder / "filler"
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_on_a_full_disk_requests_that_write_are_answered_507_and_reads_succeed(
    start: Start, small_disk: Path
) -> None:
    site = await start()
    first, second = [(await site.ended((await site.submit())["id"]))["id"] for _ in range(2)]
    with contextlib.suppress(OSError), small_disk.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(512))
    assert await ask(site, "POST", "/v1/jobs") == (507, "disk_full")
    assert await ask(site, "POST", f"/v1/jobs/{first}/collected") == (507, "disk_full")
    assert await ask(site, "GET", f"/v1/jobs/{first}/link") == (200, "")
    async with site.client.get(f"/v1/jobs/{second}/video") as response:
        assert response.status == 200
        await response.read()
    await asyncio.to_thread(small_disk.unlink)
    assert await ask(site, "POST", f"/v1/jobs/{first}/collected") == (200, "")
    assert (await site.ended((await site.submit())["id"]))["state"] == "succeeded"


@pytest.mark.parametrize("removed", [("",), ("lipsync.db",), ("lipsync.db", "-wal", "-shm"), ("-wal",)])
async def test_records_outlive_the_removal_of_their_files(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: tuple[str, ...]
) -> None:
    """The whole data folder, the database, or files that SQLite keeps beside it are removed by hand."""
    monkeypatch.setattr(volume, "_POLL_INTERVAL_S", 0.2)
    site = await start()
    data = site.data_dir
    before = (await site.ended((await site.submit())["id"]))["id"]
    statuses: set[int] = set()

    async def poll() -> None:
        while True:
            statuses.add((await ask(site, "GET", "/v1/jobs"))[0])

    polling = [asyncio.create_task(poll()) for _ in range(4)]
    for name in removed:
        path = data / name if name.startswith("lipsync") else data / f"lipsync.db{name}" if name else data
        # A folder is moved away at once: while a folder is being emptied, the server writes into it.
        await asyncio.to_thread(path.rename, tmp_path / f"removed{name}")
    async with asyncio.timeout(30):
        while (await ask(site, "POST", "/v1/jobs"))[0] == 503:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
    after = (await site.ended((await site.submit())["id"]))["id"]
    files = {"lipsync.db", "lipsync.db-wal", "lock"}
    async with asyncio.timeout(30):
        while not files <= {path.name for path in data.iterdir()}:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
    for task in polling:
        task.cancel()
    await asyncio.gather(*polling, return_exceptions=True)
    assert statuses <= {200, 503}
    assert (await site.job(before))["state"] == "succeeded"
    last = (await site.ended((await site.submit())["id"]))["id"]
    with pytest.raises(LipsyncError, match="Another server"):
        DataLock(data)
    await site.client.close()
    again = await start()
    assert [(await again.job(job_id))["state"] for job_id in (before, after, last)] == ["succeeded"] * 3
    assert stat.S_IMODE((data / "lipsync.db").stat().st_mode) == 0o600


@pytest.fixture
def mountable(tmp_path: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Two functions that mount a disk at `place`, which it is, and unmount it. The disk keeps its contents."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk, place = tmp_path / "disk", tmp_path / "place"
    for folder in (disk, place):
        folder.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "--bind", str(disk), str(place)], check=True)

    def unmount() -> None:
        subprocess.run(["umount", "--lazy", str(place)], check=True)

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "disk", str(disk)], check=True)
    mount()
    yield mount, unmount
    for folder in (place, disk):
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


async def test_an_unmounted_volume_gets_no_new_database_in_its_place(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mountable: tuple[Callable[[], None], Callable[[], None]],
) -> None:
    monkeypatch.setattr(volume, "_POLL_INTERVAL_S", 0.2)
    mount, unmount = mountable
    site = await start(data_dir=tmp_path / "place" / "data")
    done = (await site.ended((await site.submit())["id"]))["id"]
    unmount()
    assert "is not mounted" in await until_ready(site, 503)
    assert await ask(site, "POST", "/v1/jobs") == (503, "volume_stuck")
    assert not list((tmp_path / "place").iterdir())
    mount()
    await until_ready(site, 200)
    assert (await site.job(done))["state"] == "succeeded"
    assert (await site.ended((await site.submit())["id"]))["state"] == "succeeded"
    await site.client.close()

"""A finished video is copied to LIPSYNC_STORE before its job succeeds, and `kill -9` at any moment changes nothing.

The S3 tests talk to a real server, SeaweedFS, over real HTTP.
"""

import asyncio
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from jobs_of_server import end_of
from lipsync_server.media.mp4.marking import SOURCE_TYPE
from s3_server import KEY, SECRET, Bucket, Line, slow_line
from seal import seal_of
from server_process import MakeServer, ServerProcess
from site_kit import Json, form, wav

N_KILLS = int(os.environ.get("LIPSYNC_TEST_KILLS", "5"))
SLOW = {"options": json.dumps({"seconds_per_frame": 0.01, "save_every": 5})}


def store_in(server: ServerProcess, line: Line | Bucket) -> None:
    server.settings |= {"STORE": "s3://videos/from/lipsync/", "STORE_ENDPOINT": f"http://127.0.0.1:{line.port}"}
    server.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


async def submit(server: ServerProcess, session: aiohttp.ClientSession, key: str = "", seconds: float = 0.6) -> str:
    """Send a job until the server has it."""
    while True:
        try:
            data = form(audio=wav(seconds), **SLOW)
            headers = {"Idempotency-Key": key} if key else {}
            async with session.post(f"{server.url}/v1/jobs", data=data, headers=headers) as response:
                assert response.status == 202, await response.text()
                return str((await response.json())["id"])
        except OSError:
            await asyncio.sleep(0.05)


async def job_of(server: ServerProcess, session: aiohttp.ClientSession, job_id: str) -> Json:
    async with session.get(f"{server.url}/v1/jobs/{job_id}") as response:
        assert response.status == 200
        job: Json = await response.json()
        return job


async def oldest_stage(server: ServerProcess, session: aiohttp.ClientSession) -> str:
    """The stage of the oldest job that has not ended."""
    async with session.get(f"{server.url}/v1/jobs?limit=200") as response:
        jobs = (await response.json())["jobs"]
    return next((job["progress"]["stage"] for job in reversed(jobs) if job["state"] in ("queued", "running")), "none")


async def at_stage(server: ServerProcess, session: aiohttp.ClientSession, job_id: str, stage: str) -> None:
    async with session.get(f"{server.url}/v1/jobs/{job_id}/events") as response:
        async for line in response.content:
            if line.startswith(b"data: ") and json.loads(line[6:])["progress"]["stage"] == stage:
                return
    raise AssertionError(f"the job ended without having been at {stage}")


@asynccontextmanager
async def waiting_for_the_store(
    make_server: MakeServer, session: aiohttp.ClientSession, bucket: Bucket, **options: str
) -> AsyncIterator[tuple[ServerProcess, Line, str]]:
    """A server whose line to its store is cut, and a job of that server whose video waits for the store."""
    async with slow_line(bucket.port) as line:
        server = make_server(**options)
        store_in(server, line)
        server.start()
        await server.answers(session)
        line.cut = True
        job_id = await submit(server, session)
        await at_stage(server, session, job_id, "store")
        yield server, line, job_id


async def test_kill_9_at_any_moment_leaves_every_copy_complete(
    make_server: MakeServer, session: aiohttp.ClientSession, bucket: Bucket
) -> None:
    chance = random.Random(7)
    before = await bucket.contents()
    async with slow_line(bucket.port) as line:
        # As slow as a render, so that kills fall into copies as often as into renders.
        line.delay_s = 0.2
        server = make_server()
        store_in(server, line)
        server.start()
        await server.answers(session)
        job_ids, stages = [], []
        for number in range(N_KILLS):
            job_ids.append(await submit(server, session, str(number)))
            if number % 3:
                await server.answers(session, "/readyz")
            await asyncio.sleep(chance.uniform(0.0, 1.5))
            stages.append(await oldest_stage(server, session))
            server.kill()
            server.start()
            await server.answers(session)
        async with asyncio.timeout(120):
            jobs = [await end_of(session, server, job_id) for job_id in job_ids]
        copies = await bucket.contents()
        for job in jobs:
            assert job["state"] == "succeeded", job
            copy = copies.pop(job["links"]["stored"].removeprefix("s3://videos/"))
            assert hashlib.sha256(copy).hexdigest() == job["result"]["sha256"]
        assert copies == before
    print(f"killed at stages {stages}")


async def test_the_copy_in_s3_is_the_video_byte_for_byte_and_its_seal_is_valid(
    make_server: MakeServer, session: aiohttp.ClientSession, bucket: Bucket, tmp_path: Path
) -> None:
    before = await bucket.contents()
    server = make_server()
    store_in(server, bucket)
    server.start()
    await server.answers(session)
    job = await end_of(session, server, await submit(server, session))
    copies = await bucket.contents()
    (name,) = copies.keys() - before.keys()
    async with session.get(f"{server.url}/v1/jobs/{job['id']}/video") as response:
        assert copies[name] == await response.read()
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(copies[name])
    seal = await asyncio.to_thread(seal_of, copy)
    assert (seal.state, seal.source_types) == ("Valid", [SOURCE_TYPE])
    changed = bytearray(copies[name])
    changed[changed.index(b"mdat") + 40] ^= 0xFF
    copy.write_bytes(changed)
    assert (await asyncio.to_thread(seal_of, copy)).state == "Invalid"


async def test_a_rendered_video_is_not_rendered_again(
    make_server: MakeServer, session: aiohttp.ClientSession, bucket: Bucket, tmp_path: Path
) -> None:
    async with waiting_for_the_store(make_server, session, bucket) as (server, line, job_id):
        # The worker is not kept waiting for the store.
        other = await submit(server, session)
        await at_stage(server, session, other, "store")
        videos = [tmp_path / "data" / "jobs" / each / "video.mp4" for each in (job_id, other)]
        rendered_at = [video.stat().st_mtime_ns for video in videos]
        server.kill()
        server.start()
        await server.answers(session)
        line.cut = False
        for each in (job_id, other):
            job = await end_of(session, server, each)
            assert (job["state"], job["attempts"]) == ("succeeded", 1)
            assert job["timings"]["store_s"] > 0
        assert [video.stat().st_mtime_ns for video in videos] == rendered_at


async def test_a_stop_does_not_wait_for_a_store_that_does_not_answer(
    make_server: MakeServer, session: aiohttp.ClientSession, bucket: Bucket
) -> None:
    async with waiting_for_the_store(make_server, session, bucket, SHUTDOWN_GRACE_S="0") as (server, line, job_id):
        assert await asyncio.to_thread(server.stop) == 0
        line.cut = False
        server.start()
        await server.answers(session)
        assert (await end_of(session, server, job_id))["state"] == "succeeded"


async def test_a_copy_that_waits_can_be_cancelled(
    make_server: MakeServer, session: aiohttp.ClientSession, bucket: Bucket, tmp_path: Path
) -> None:
    async with waiting_for_the_store(make_server, session, bucket) as (server, _, job_id):
        async with session.delete(f"{server.url}/v1/jobs/{job_id}") as response:
            assert response.status == 202
        assert (await end_of(session, server, job_id))["state"] == "cancelled"
        # The server answers first and deletes the files afterwards.
        async with asyncio.timeout(30):
            while (tmp_path / "data" / "jobs" / job_id).exists():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)


async def test_a_folder_holds_the_copies(
    make_server: MakeServer, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    folder = tmp_path / "shelf" / "videos"
    server = make_server(STORE=str(folder))
    server.start()
    await server.answers(session)
    job = await end_of(session, server, await submit(server, session))
    (copy,) = folder.iterdir()
    assert job["links"]["stored"] == str(copy)
    assert copy.name == f"face-lipsync-{job['id']}.mp4"
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == job["result"]["sha256"]


@pytest.mark.parametrize(
    ("store", "words"),
    [("s3://no-such-bucket/x", "there is no bucket"), ("ftp://x", "must be a folder or"), ("/proc/x", "/proc/x")],
)
async def test_a_store_that_can_never_work_is_refused_at_start(
    make_server: MakeServer, bucket: Bucket, store: str, words: str
) -> None:
    server = make_server(STORE=store)
    server.settings["STORE_ENDPOINT"] = f"http://127.0.0.1:{bucket.port}"
    server.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    server.start()
    assert await server.ended_by_itself() != 0
    assert words in server.output()

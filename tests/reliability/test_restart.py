"""A restart keeps due callbacks, queued jobs and cancellations; and a stop is orderly."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from jobs_of_server import end_of
from material import bar_numbers, expected_bars
from server_process import MakeServer, ServerProcess
from site_kit import Json, form, wav

SLOW = {"options": json.dumps({"seconds_per_frame": 0.05, "save_every": 5})}


Hook = tuple[str, asyncio.Queue[Json], list[int]]


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    """An address for callbacks, the calls that it received, and the statuses of its answers."""
    calls: asyncio.Queue[Json] = asyncio.Queue()
    statuses = [500]

    async def handle(request: web.Request) -> web.Response:
        calls.put_nowait(await request.json())
        return web.Response(status=statuses[-1])

    app = web.Application()
    app.router.add_post("/hook", handle)
    server = TestServer(app)
    await server.start_server()
    yield f"http://127.0.0.1:{server.port}/hook", calls, statuses
    await server.close()


async def submit(server: ServerProcess, session: aiohttp.ClientSession, seconds: float = 0.4, **fields: object) -> str:
    async with session.post(f"{server.url}/v1/jobs", data=form(audio=wav(seconds), **fields)) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


async def first_frames(server: ServerProcess, session: aiohttp.ClientSession, job_id: str) -> None:
    """Wait until the job has rendered something."""
    async with session.get(f"{server.url}/v1/jobs/{job_id}/events") as response:
        async for line in response.content:
            if line.startswith(b"data: ") and json.loads(line[6:])["progress"]["fraction"] > 0.3:
                return


async def test_a_callback_survives_kill_9(make_server: MakeServer, session: aiohttp.ClientSession, hook: Hook) -> None:
    url, calls, statuses = hook
    server = make_server()
    server.start()
    await server.answers(session)
    job_id = await submit(server, session, callback_url=url)
    async with asyncio.timeout(60):
        assert (await calls.get())["job"]["id"] == job_id
    server.kill()
    statuses.append(200)
    while not calls.empty():
        calls.get_nowait()
    server.start()
    async with asyncio.timeout(60):
        assert (await calls.get())["job"]["id"] == job_id


async def test_a_stop_puts_the_running_job_back_and_it_resumes(
    make_server: MakeServer, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = make_server(SHUTDOWN_GRACE_S="0")
    server.start()
    await server.answers(session)
    job_id = await submit(server, session, 2.0, **SLOW)
    await first_frames(server, session, job_id)
    assert await asyncio.to_thread(server.stop) == 0
    server.start()
    await server.answers(session)
    job = await end_of(session, server, job_id)
    assert (job["state"], job["attempts"]) == ("succeeded", 2)
    assert any(warning.startswith("resumed at") for warning in job["result"]["warnings"])
    async with session.get(f"{server.url}/v1/jobs/{job_id}/video") as response:
        video = tmp_path / "video.mp4"
        video.write_bytes(await response.read())
    assert bar_numbers(video) == expected_bars(50)


async def test_a_stop_lets_a_nearly_finished_job_finish(
    make_server: MakeServer, session: aiohttp.ClientSession
) -> None:
    server = make_server(SHUTDOWN_GRACE_S="30")
    server.start()
    await server.answers(session)
    job_id = await submit(server, session, 1.0, **SLOW)
    await first_frames(server, session, job_id)
    assert await asyncio.to_thread(server.stop) == 0
    server.start()
    await server.answers(session)
    job = await end_of(session, server, job_id)
    assert (job["state"], job["attempts"]) == ("succeeded", 1)


async def test_a_job_that_was_to_be_cancelled_is_cancelled_after_kill_9(
    make_server: MakeServer, session: aiohttp.ClientSession
) -> None:
    server = make_server()
    server.start()
    await server.answers(session)
    deaf = {"options": json.dumps({"seconds_per_frame": 0.05, "deaf": True})}
    job_id = await submit(server, session, 10.0, **deaf)
    await first_frames_or_running(server, session, job_id)
    async with session.delete(f"{server.url}/v1/jobs/{job_id}") as response:
        assert response.status == 202
    server.kill()
    server.start()
    await server.answers(session)
    assert (await end_of(session, server, job_id))["state"] == "cancelled"


async def first_frames_or_running(server: ServerProcess, session: aiohttp.ClientSession, job_id: str) -> None:
    async with session.get(f"{server.url}/v1/jobs/{job_id}/events") as response:
        async for line in response.content:
            if line.startswith(b"data: ") and json.loads(line[6:])["state"] == "running":
                return


async def test_the_worker_dies_with_the_server(make_server: MakeServer, session: aiohttp.ClientSession) -> None:
    server = make_server()
    server.start()
    await server.answers(session, "/readyz")
    workers = server.workers()
    assert workers
    server.kill()
    for worker in workers:
        await asyncio.to_thread(worker.wait, 20)

"""Promise 3: `kill -9` of the server or of a worker, at any moment, loses no accepted job and no finished video.

A load of jobs runs while the server's process or its worker's is really killed at random moments. CI does a few with a
fixed seed; all of them, with the product's engine:

    LIPSYNC_TEST_KILLS=30 LIPSYNC_TEST_ENGINE=preview python -m pytest tests/reliability/test_kill.py
"""

import asyncio
import hashlib
import json
import os
import random
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from lipsync_server.engines.base import n_frames_for
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from material import bar_numbers, expected_bars
from server_process import MakeServer, ServerProcess
from site_kit import Json, form, png, wav
from yarl import URL

N_KILLS = int(os.environ.get("LIPSYNC_TEST_KILLS", "6"))
ENGINE = os.environ.get("LIPSYNC_TEST_ENGINE", "bars")
SEED = int(os.environ.get("LIPSYNC_TEST_SEED", "20"))
# Long enough for several jobs, so that some are hit and some are not.
LONGEST_PAUSE_S = 2.5 if ENGINE == "bars" else 7.0
BARS = {"options": json.dumps({"seconds_per_frame": 0.01, "save_every": 10})}


@dataclass
class Load:
    """A client that repeats every request until its answer, and records accepted jobs and finished videos."""

    server: ServerProcess
    session: aiohttp.ClientSession
    chance: random.Random
    accepted: dict[str, float] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    n_sent: int = 0

    async def send_forever(self) -> None:
        while True:
            self.n_sent += 1
            await self.send(f"job-{self.n_sent}")
            while len(self.accepted) - len(self.finished) - len(self.failed) > 3:
                await self.look_at_all()
                await asyncio.sleep(0.05)

    async def send(self, key: str) -> None:
        """Send one job until the server has accepted it. The key makes repeated requests one job."""
        seconds = round(self.chance.uniform(0.4, 2.5), 2)
        fields = BARS if ENGINE == "bars" else {}
        while True:
            data = form(image=picture(), audio=wav(seconds), prompt=key, **fields)
            try:
                async with self.session.post(
                    f"{self.server.url}/v1/jobs", data=data, headers={"Idempotency-Key": key}
                ) as response:
                    assert response.status in (202, 429), await response.text()
                    if response.status == 202:
                        self.accepted[(await response.json())["id"]] = seconds
                        return
            except (aiohttp.ClientError, ConnectionError):
                pass
            await asyncio.sleep(0.05)

    async def look_at_all(self) -> None:
        for job_id in set(self.accepted) - set(self.finished) - self.failed:
            job = await self.job(job_id)
            if job and job["state"] == "succeeded":
                self.finished[job_id] = job["result"]["sha256"]
            elif job and job["state"] == "failed":
                self.failed.add(job_id)

    async def job(self, job_id: str) -> Json | None:
        """The job; None while the server does not answer. An accepted job is never unknown."""
        try:
            async with self.session.get(f"{self.server.url}/v1/jobs/{job_id}") as response:
                assert response.status == 200, f"job {job_id} was accepted and is now {response.status}"
                job: Json = await response.json()
                return job
        except (aiohttp.ClientError, ConnectionError):
            return None


def picture() -> bytes:
    return png() if ENGINE == "bars" else next(SAMPLES_DIR.glob("*.[jp][pn]g")).read_bytes()


async def kill_something(server: ServerProcess, session: aiohttp.ClientSession, chance: random.Random) -> str:
    """Kill the server or its worker at random moments: mostly during work, sometimes during a start or recovery."""
    victim = chance.choice(("server", "worker"))
    if chance.random() < 0.7:
        await server.answers(session, "/readyz")
    await asyncio.sleep(chance.uniform(0.0, LONGEST_PAUSE_S))
    if victim == "worker":
        async with asyncio.timeout(60):
            while not (workers := server.workers()):
                await server.answers(session)
        with suppress(psutil.NoSuchProcess):
            workers[0].kill()
    else:
        server.kill()
        server.start()
    return victim


async def test_no_kill_loses_a_job_or_a_finished_video(
    make_server: MakeServer, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    server = make_server(ENGINE)
    server.start()
    await server.answers(session)
    load = Load(server, session, chance)
    sending = asyncio.create_task(load.send_forever())
    killed = []
    for _ in range(N_KILLS):
        killed.append(await kill_something(server, session, chance))
        assert not sending.done(), sending.exception()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await server.answers(session)
    assert len(load.accepted) >= N_KILLS // 2

    async with asyncio.timeout(240):
        for job_id in load.accepted:
            # The stream of events ends with the job.
            async with session.get(f"{server.url}/v1/jobs/{job_id}/events") as response:
                assert "event: end" in await response.text()

    crashed = 0
    for job_id, seconds in load.accepted.items():
        job = await load.job(job_id)
        assert job is not None
        if job["state"] == "failed":
            crashed += 1
            assert job["error"]["code"] == "worker_crashed", job["error"]
            assert job_id not in load.finished
            assert job["attempts"] >= 2
            continue
        assert job["state"] == "succeeded", job
        async with session.get(f"{server.url}/v1/jobs/{job_id}/video") as response:
            assert response.status == 200
            video = await response.read()
        assert hashlib.sha256(video).hexdigest() == job["result"]["sha256"]
        assert load.finished.get(job_id, job["result"]["sha256"]) == job["result"]["sha256"]
        check_video(video, seconds, tmp_path / "video.mp4")
    await check_leftovers(server, load, session)
    assert server.stop() == 0
    check_database(server)
    print(
        f"{len(killed)} kills ({killed.count('server')} server, {killed.count('worker')} worker), "
        f"{len(load.accepted)} jobs accepted, {len(load.accepted) - crashed} videos whole, "
        f"{crashed} failed after two dead workers"
    )


def check_video(video: bytes, seconds: float, path: Path) -> None:
    path.write_bytes(video)
    n_frames = n_frames_for(seconds)
    assert probe_video(path).n_frames == n_frames
    if ENGINE == "bars":
        assert bar_numbers(path) == expected_bars(n_frames)


async def check_leftovers(server: ServerProcess, load: Load, session: aiohttp.ClientSession) -> None:
    """One job for each key, and on disk nothing but the videos."""
    prompts, address = [], f"{server.url}/v1/jobs?limit=200"
    succeeded = set()
    while address:
        async with session.get(address) as response:
            page = await response.json()
            address = str(response.url.join(URL(page["next"]))) if page["next"] else ""
        for job in page["jobs"]:
            prompts.append(job["prompt"])
            if job["state"] == "succeeded":
                succeeded.add(job["id"])
    assert len(prompts) == len(set(prompts))
    assert len(prompts) - len(load.accepted) in (0, 1)
    # One last job may still be running because no client waited for its answer. Its folder may stay.
    kept = {path.name for path in (server.data_dir / "jobs").iterdir()}
    assert succeeded <= kept
    for job_id in succeeded:
        assert [path.name for path in (server.data_dir / "jobs" / job_id).iterdir()] == ["video.mp4"]


def check_database(server: ServerProcess) -> None:
    with sqlite3.connect(server.data_dir / "lipsync.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

"""Jobs sent to a real server over HTTP, their ends and their videos."""

import asyncio
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import soundfile
from lipsync_server.engines.base import Frames
from PIL import Image
from server_process import ServerProcess

Job = dict[str, Any]
TOKEN = "token-of-the-tests"
RATE_HZ = 44_100
LIMIT_S = 240


def tone(duration_s: float) -> bytes:
    """A WAV file of one steady tone."""
    sound = io.BytesIO()
    times = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    soundfile.write(sound, 0.3 * np.sin(2 * np.pi * 220 * times), RATE_HZ, format="WAV")
    return sound.getvalue()


def noise_png(width: int, height: int) -> bytes:
    """A PNG of random pixels, the same each time."""
    picture = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture, "PNG")
    return picture.getvalue()


def speaking_form(picture: bytes, content_type: str, duration_s: float, **fields: str) -> aiohttp.FormData:
    """The fields of a job: the picture, a tone of `duration_s`, and more fields by name."""
    form = aiohttp.FormData()
    form.add_field("image", picture, filename=f"face.{content_type.partition('/')[2]}", content_type=content_type)
    form.add_field("audio", tone(duration_s), filename="voice.wav", content_type="audio/wav")
    for name, value in fields.items():
        form.add_field(name, value)
    return form


def frames_in(video: bytes) -> Frames:
    """All frames (n, height, width, 3) of an MP4, uint8 RGB."""
    with av.open(io.BytesIO(video), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.uint8)


def sound_in(video: bytes) -> tuple[float, str]:
    """Seconds and codec of an MP4's sound."""
    with av.open(io.BytesIO(video), "r") as container:
        sound = container.streams.audio[0]
        assert sound.duration is not None
        assert sound.time_base is not None
        return float(sound.duration * sound.time_base), sound.codec_context.name


async def posted(session: aiohttp.ClientSession, server: ServerProcess, form: aiohttp.FormData) -> str:
    """Send a job; the address of its record."""
    async with session.post(f"{server.url}/v1/jobs", data=form) as answer:
        assert answer.status == 202, await answer.text()
        return f"{server.url}/v1/jobs/{(await answer.json())['id']}"


async def rendered(session: aiohttp.ClientSession, server: ServerProcess, form: aiohttp.FormData) -> bytes:
    """The video that POST /lipsync answers with."""
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        body = await answer.read()
        assert (answer.status, answer.content_type) == (200, "video/mp4"), body[:500]
    return body


async def until(session: aiohttp.ClientSession, url: str, condition: Callable[[Job], bool]) -> Job:
    """The job's record once `condition` holds; the job may end only then."""
    end = time.monotonic() + LIMIT_S
    job: Job = {}
    while time.monotonic() < end:
        async with session.get(url) as answer:
            job = await answer.json()
        if condition(job):
            return job
        assert job["state"] in ("queued", "running"), job
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in time: {job}")


async def end_of(session: aiohttp.ClientSession, server: ServerProcess, job_id: str) -> Job:
    """The job's record after its end, for which its event stream waits."""
    url = f"{server.url}/v1/jobs/{job_id}"
    async with session.get(f"{url}/events") as answer:
        assert "event: end" in await answer.text()
    async with session.get(url) as answer:
        assert answer.status == 200, await answer.text()
        job: Job = await answer.json()
        return job


def succeeded(job: Job) -> bool:
    return bool(job["state"] == "succeeded")


async def video_of(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(f"{url}/video") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def until_a_window_is_stored(session: aiohttp.ClientSession, url: str, data_dir: Path) -> None:
    """A window of frames is durable once its resume point is on disk."""
    await until(session, url, lambda now: any(data_dir.rglob("checkpoint-*.npz")))


async def check_that_a_killed_server_makes_the_same_video(
    session: aiohttp.ClientSession,
    server: ServerProcess,
    data_dir: Path,
    form: Callable[[], aiohttp.FormData],
    n_frames: int,
) -> None:
    """kill -9 of the server and its worker between windows, once; the video equals that of an undisturbed job."""
    videos = []
    for kill in (True, False):
        url = await posted(session, server, form())
        if kill:
            await until_a_window_is_stored(session, url, data_dir)
            workers = server.workers()
            server.kill()
            for worker in workers:
                worker.kill()
            server.start()
            await server.answers(session)
        job = await until(session, url, succeeded)
        assert job["result"]["n_frames"] == n_frames
        videos.append(frames_in(await video_of(session, url)))
    np.testing.assert_array_equal(videos[0], videos[1])


async def engines_of(session: aiohttp.ClientSession, server: ServerProcess) -> dict[str, dict[str, Any]]:
    """GET /v1/engines, by name."""
    async with session.get(f"{server.url}/v1/engines") as answer:
        return {entry["name"]: entry for entry in (await answer.json())["engines"]}

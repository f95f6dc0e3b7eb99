"""A video is watched while it is rendered: `GET /v1/jobs/{id}/stream`, with real servers, workers and decoders."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from lipsync_server.media.mp4.growing_file import n_frames_at
from material import bar_numbers, expected_bars
from server_process import ServerProcess
from site_kit import form, wav

TOKENS = "anna:A,ben:B"
N_FRAMES = 100
SECONDS = N_FRAMES / 25
# A window of ten frames, several times faster than real time.
WINDOWS = {"save_every": 10, "seconds_per_frame": 0.02}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("stream") / "data", options={"TOKENS": TOKENS}).running() as server:
        yield server


@pytest.fixture
async def anna(server: ServerProcess) -> AsyncIterator[aiohttp.ClientSession]:
    async with as_caller(server, "A") as session:
        yield session


def as_caller(server: ServerProcess, token: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        server.url, headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=90)
    )


async def submit(session: aiohttp.ClientSession, **options: object) -> str:
    body = form(audio=("a.wav", wav(SECONDS)), options=json.dumps({**WINDOWS, **options}))
    async with session.post("/v1/jobs", data=body) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


async def job(session: aiohttp.ClientSession, job_id: str) -> dict[str, Any]:
    async with session.get(f"/v1/jobs/{job_id}") as response:
        return dict(await response.json())


async def ended(session: aiohttp.ClientSession, job_id: str) -> dict[str, Any]:
    async with session.get(f"/v1/jobs/{job_id}/events") as response:
        await response.read()
    return await job(session, job_id)


def stretch(packet: "av.Packet[Any]") -> tuple[float, float]:
    """The start and the end of a packet, in seconds."""
    assert packet.pts is not None
    assert packet.duration is not None
    return float(packet.pts * packet.time_base), float((packet.pts + packet.duration) * packet.time_base)


def check_whole(data: bytes, folder: Path) -> None:
    """The stream is the whole video: every frame in order at its time, and all of the sound beside it."""
    path = folder / "watched.mp4"
    path.write_bytes(data)
    assert bar_numbers(path) == expected_bars(N_FRAMES)
    with av.open(str(path)) as opened:
        shown = sorted(stretch(packet)[0] for packet in opened.demux(video=0) if packet.size)
    assert shown == pytest.approx([frame / 25 for frame in range(N_FRAMES)])
    with av.open(str(path)) as opened:
        heard = [stretch(packet) for packet in opened.demux(audio=0) if packet.size]
    assert heard[0][0] == pytest.approx(0, abs=0.07)
    assert heard[-1][1] == pytest.approx(SECONDS, abs=0.001)
    assert [start for start, _ in heard[1:]] == [end for _, end in heard[:-1]]


async def test_a_video_is_watched_from_its_first_window_on(anna: aiohttp.ClientSession, tmp_path: Path) -> None:
    job_id = await submit(anna, seconds_per_frame=0.04)
    async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith('video/mp4; codecs="avc1.64')
        assert response.headers["Lipsync-Stream"] in ("live", "slow")
        data = await response.content.readany()
        seen = await job(anna, job_id)
        assert seen["state"] == "running", "the first part is sent while the rest is rendered"
        assert b"moof" in data
        data += await response.content.read()
    assert n_frames_at(data[-24:]) == N_FRAMES
    check_whole(data, tmp_path)
    assert (await job(anna, job_id))["state"] == "succeeded"


async def test_a_late_viewer_gets_the_beginning_too(anna: aiohttp.ClientSession, tmp_path: Path) -> None:
    job_id = await submit(anna)

    async def watch() -> bytes:
        async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
            return await response.read()

    async def watch_late() -> bytes:
        async with anna.get(f"/v1/jobs/{job_id}/stream") as early:
            while n_frames_at((await early.content.readany())[-24:]) < 30:
                pass
            return await watch()

    first, late = await asyncio.gather(watch(), watch_late())
    assert first == late
    check_whole(late, tmp_path)


async def test_a_viewer_who_disconnects_changes_nothing(anna: aiohttp.ClientSession) -> None:
    job_id = await submit(anna)
    async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
        await response.content.readany()
    assert (await ended(anna, job_id))["state"] == "succeeded"


async def test_the_stream_continues_when_the_worker_dies(anna: aiohttp.ClientSession, tmp_path: Path) -> None:
    job_id = await submit(anna, die_at=55)
    async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
        data = await response.read()
    check_whole(data, tmp_path)
    assert (await job(anna, job_id))["attempts"] == 2


async def test_a_failed_render_never_looks_like_a_whole_video(anna: aiohttp.ClientSession) -> None:
    job_id = await submit(anna, fail_at=55, every_try=True)
    async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
        assert response.status == 409
        assert "it has no video" in (await response.json())["detail"]


async def test_a_finished_job_answers_its_finished_video(anna: aiohttp.ClientSession) -> None:
    job_id = await submit(anna, save_every=0)
    async with anna.get(f"/v1/jobs/{job_id}/stream") as response:
        assert response.headers["Lipsync-Stream"] == "finished", "an engine without windows has nothing to show before"
        data = await response.read()
    done = await job(anna, job_id)
    assert len(data) == done["result"]["size_bytes"]
    assert done["collected_at"] is None, "watching is not collecting"


async def test_another_caller_s_video_is_not_shown(server: ServerProcess, anna: aiohttp.ClientSession) -> None:
    job_id = await submit(anna)
    async with as_caller(server, "B") as ben, ben.get(f"/v1/jobs/{job_id}/stream") as response:
        assert response.status == 404
    async with as_caller(server, "wrong") as nobody, nobody.get(f"/v1/jobs/{job_id}/stream") as response:
        assert response.status == 401


async def test_a_restarted_server_shows_the_video_from_its_beginning(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", options={"TOKENS": TOKENS})
    with server.running():
        async with as_caller(server, "A") as session:
            job_id = await submit(session, seconds_per_frame=0.04)
            async with session.get(f"/v1/jobs/{job_id}/stream") as response:
                await response.content.readany()
                server.kill()
                with pytest.raises(aiohttp.ClientError):
                    await response.read()
    with server.running():
        async with as_caller(server, "A") as session, session.get(f"/v1/jobs/{job_id}/stream") as response:
            check_whole(await response.read(), tmp_path)

"""FlashHead through the real HTTP API and worker process at 512 x 512, with tiny files in the published layout."""

import asyncio
import io
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest
import soundfile
from lipsync_server.random_models import flashhead as random_flashhead
from server_process import ServerProcess

TOKEN = "flashhead-test-token"
PORTRAITS = Path(__file__).parents[2] / "docs" / "contact-sheets" / "portraits"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flashhead")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    random_flashhead.write(home / "weights")
    options = {"ENGINE": "flashhead", "DEVICE": "cpu", "PRESET": "fast", "WEIGHTS_DIR": str(home / "weights")}
    server = ServerProcess(home / "data", "product", {"TOKENS": TOKEN, **options}, environment={"OMP_NUM_THREADS": "1"})
    with server.running():
        yield server


@pytest.fixture
async def session():
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened


def _form(duration_s: float, portrait: str = "glasses.jpg", **fields: str) -> aiohttp.FormData:
    sound = io.BytesIO()
    times = np.arange(round(duration_s * 44_100)) / 44_100
    soundfile.write(sound, 0.3 * np.sin(2 * np.pi * 220 * times), 44_100, format="WAV")
    form = aiohttp.FormData()
    form.add_field("image", (PORTRAITS / portrait).read_bytes(), filename="face.jpg", content_type="image/jpeg")
    form.add_field("audio", sound.getvalue(), filename="voice.wav", content_type="audio/wav")
    for name, value in fields.items():
        form.add_field(name, value)
    return form


def _frames(video: bytes, path: Path) -> np.ndarray:
    path.write_bytes(video)
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


async def _until(session: aiohttp.ClientSession, url: str, condition) -> dict:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        async with session.get(url) as answer:
            job = await answer.json()
        if condition(job):
            return job
        assert job["state"] in ("queued", "running"), job
        await asyncio.sleep(0.02)
    raise AssertionError(f"not in time: {job}")


@pytest.mark.parametrize("variant", ["pro", "lite"])
async def test_a_picture_and_a_recording_in_the_whole_picture_speaking_out(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path, variant: str
) -> None:
    form = _form(0.3, options=f'{{"variant": "{variant}", "steps": 1}}')
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        body = await answer.read()
        assert (answer.status, answer.content_type) == (200, "video/mp4"), body[:500]
    assert _frames(body, tmp_path / "video.mp4").shape == (8, 600, 512, 3)
    with av.open(str(tmp_path / "video.mp4")) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(0.3, abs=0.03)


async def test_the_square_alone_is_512_wide_and_high(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with session.post(
        f"{server.url}/lipsync", data=_form(0.2, options='{"framing": "crop", "steps": 1}')
    ) as answer:
        body = await answer.read()
        assert answer.status == 200, body[:500]
    assert _frames(body, tmp_path / "video.mp4").shape == (5, 512, 512, 3)


async def test_a_server_killed_between_windows_makes_the_same_video(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path, tmp_path: Path
) -> None:
    videos = []
    for kill in (True, False):
        async with session.post(f"{server.url}/v1/jobs", data=_form(1.6, options='{"steps": 1}')) as answer:
            assert answer.status == 202, await answer.text()
            url = f"{server.url}/v1/jobs/{(await answer.json())['id']}"
        if kill:
            await _until(session, url, lambda now: any((home / "data").rglob("checkpoint-*.npz")))
            workers = server.workers()
            server.kill()
            for worker in workers:
                worker.kill()
            server.start()
            await server.answers(session)
        finished = await _until(session, url, lambda now: now["state"] == "succeeded")
        assert finished["result"]["n_frames"] == 40
        async with session.get(f"{url}/video") as answer:
            videos.append(_frames(await answer.read(), tmp_path / "video.mp4"))
    np.testing.assert_array_equal(videos[0], videos[1])


async def test_a_second_recording_is_refused_in_words(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    form = _form(0.3)
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(8000), 16_000, format="WAV")
    form.add_field("second_audio", sound.getvalue(), filename="second.wav", content_type="audio/wav")
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        problem = await answer.json()
    assert answer.status == 422
    assert "second" in problem["detail"] or "two" in problem["detail"]


async def test_the_engine_says_what_it_offers(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{server.url}/v1/engines") as answer:
        listing = await answer.json()
    engines = {entry["name"]: entry for entry in (listing["engines"] if isinstance(listing, dict) else listing)}
    assert engines["flashhead"]["available"] is True
    assert "variant" in engines["flashhead"]["options_schema"]["properties"]

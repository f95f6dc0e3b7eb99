"""InfiniteTalk through the real HTTP API and worker process, with tiny model files in the official layout."""

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
from lipsync_server.random_models import infinitetalk as random_models
from PIL import Image
from server_process import ServerProcess

TOKEN = "infinitetalk-test-token"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("infinitetalk")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    random_models.write(home / "weights")
    options = {"ENGINE": "infinitetalk", "DEVICE": "cpu", "PRESET": "fast", "WEIGHTS_DIR": str(home / "weights")}
    server = ServerProcess(home / "data", "product", {"TOKENS": TOKEN, **options}, environment={"OMP_NUM_THREADS": "1"})
    with server.running():
        yield server


@pytest.fixture
async def session():
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened


def _sound(duration_s: float) -> bytes:
    sound = io.BytesIO()
    times = np.arange(round(duration_s * 44_100)) / 44_100
    soundfile.write(sound, 0.3 * np.sin(2 * np.pi * 220 * times), 44_100, format="WAV")
    return sound.getvalue()


def _still() -> tuple[bytes, str]:
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 200, 3), dtype=np.uint8)).save(picture, "PNG")
    return picture.getvalue(), "image/png"


def _film() -> tuple[bytes, str]:
    """Thirty different frames, 200 x 64."""
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 200, 64, "yuv420p"
        for frame in np.random.default_rng(2).integers(0, 255, (30, 64, 200, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return film.getvalue(), "video/mp4"


def _form(duration_s: float, picture: tuple[bytes, str] | None = None, **fields: str) -> aiohttp.FormData:
    content, content_type = picture or _still()
    form = aiohttp.FormData()
    form.add_field("image", content, filename=f"face.{content_type.partition('/')[2]}", content_type=content_type)
    form.add_field("audio", _sound(duration_s), filename="voice.wav", content_type="audio/wav")
    for name, value in fields.items():
        form.add_field(name, value)
    return form


def _measure(video: bytes, path: Path) -> tuple[int, float, tuple[int, int], str]:
    path.write_bytes(video)
    with av.open(str(path)) as container:
        n_frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        stream, sound = container.streams.video[0], container.streams.audio[0]
        return (
            n_frames,
            float(sound.duration * sound.time_base),
            (stream.width, stream.height),
            sound.codec_context.name,
        )


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


async def test_image_and_audio_in_a_video_of_the_right_length_out(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with session.post(f"{server.url}/lipsync", data=_form(0.3, options='{"steps": 1}')) as answer:
        body = await answer.read()
        assert (answer.status, answer.content_type) == (200, "video/mp4"), body[:500]
    n_frames, sound_s, size, codec = _measure(body, tmp_path / "video.mp4")
    assert (n_frames, size, codec) == (8, (1216, 320), "aac")
    assert sound_s == pytest.approx(0.3, abs=0.03)


async def test_two_recordings_one_after_the_other_make_one_long_video(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    form = _form(0.2, options='{"steps": 1, "audio_mode": "one_after_other"}')
    form.add_field("second_audio", _sound(0.24), filename="second.wav", content_type="audio/wav")
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        body = await answer.read()
        assert answer.status == 200, body[:500]
    n_frames, sound_s, _, _ = _measure(body, tmp_path / "video.mp4")
    assert n_frames == 11
    assert sound_s == pytest.approx(0.44, abs=0.03)


async def test_two_people_in_their_boxes_speak_together(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    form = _form(0.3, options='{"steps": 1, "people": [[5, 2, 90, 62], [110, 2, 195, 62]]}')
    form.add_field("second_audio", _sound(0.2), filename="second.wav", content_type="audio/wav")
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        body = await answer.read()
        assert answer.status == 200, body[:500]
    n_frames, sound_s, _, _ = _measure(body, tmp_path / "video.mp4")
    assert n_frames == 8
    assert sound_s == pytest.approx(0.3, abs=0.03)


async def test_a_video_as_the_picture_is_dubbed(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    form = _form(0.56, _film(), options='{"steps": 1, "window_frames": 13, "motion_frames": 5}')
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        body = await answer.read()
        assert answer.status == 200, body[:500]
    n_frames, sound_s, size, codec = _measure(body, tmp_path / "video.mp4")
    assert (n_frames, size, codec) == (14, (1216, 320), "aac")
    assert sound_s == pytest.approx(0.56, abs=0.03)


async def test_a_server_killed_between_windows_makes_the_same_video(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path, tmp_path: Path
) -> None:
    """kill -9 of the server and its worker, once; the video is that of a job that nobody disturbed."""
    options = '{"steps": 1, "window_frames": 13, "motion_frames": 5}'
    videos = []
    for kill in (True, False):
        async with session.post(f"{server.url}/v1/jobs", data=_form(0.88, options=options)) as answer:
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
        assert finished["result"]["n_frames"] == 22
        async with session.get(f"{url}/video") as answer:
            (tmp_path / "video.mp4").write_bytes(await answer.read())
        with av.open(str(tmp_path / "video.mp4")) as container:
            videos.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    np.testing.assert_array_equal(videos[0], videos[1])


async def test_a_worker_killed_between_windows_goes_on_from_the_last_finished_one(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path, tmp_path: Path
) -> None:
    options = '{"steps": 1, "window_frames": 13, "motion_frames": 5}'
    async with session.post(f"{server.url}/v1/jobs", data=_form(0.88, options=options)) as answer:
        assert answer.status == 202, await answer.text()
        job = await answer.json()
    url = f"{server.url}/v1/jobs/{job['id']}"
    # The first window is durable once its resume point is; the encoder stores it while the second is being made.
    await _until(session, url, lambda now: any((home / "data").rglob("checkpoint-*.npz")))
    workers = server.workers()
    assert len(workers) == 1
    workers[0].kill()
    workers[0].wait()
    # The note of the killed run stays until the next one reports.
    await _until(session, url, lambda now: "window" not in now["progress"]["note"])
    seen: list[str] = []
    finished = await _until(
        session, url, lambda now: seen.append(now["progress"]["note"]) or now["state"] == "succeeded"
    )
    assert any("window 3 of 3" in note for note in seen)
    assert not any("window 1 of 3" in note for note in seen)
    assert finished["result"]["n_frames"] == 22
    async with session.get(f"{url}/video") as answer:
        n_frames, sound_s, _, _ = _measure(await answer.read(), tmp_path / "video.mp4")
    assert n_frames == 22
    assert sound_s == pytest.approx(0.88, abs=0.03)


async def test_the_engine_says_what_it_offers(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{server.url}/v1/engines") as answer:
        listing = await answer.json()
    engines = {entry["name"]: entry for entry in (listing["engines"] if isinstance(listing, dict) else listing)}
    assert engines["infinitetalk"]["available"] is True
    assert engines["infinitetalk"]["max_people"] == 2


async def test_an_option_out_of_range_is_refused_by_name(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{server.url}/v1/jobs", data=_form(0.3, options='{"steps": 1000}')) as answer:
        problem = await answer.json()
    assert answer.status == 422
    assert "steps" in problem["detail"]

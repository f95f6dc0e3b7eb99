"""InfiniteTalk through the real HTTP API and worker process, with tiny model files in the official layout.

One video has its real size. The others are small (support/small_infinitetalk), because no promise here depends on it.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest
from jobs_of_server import (
    TOKEN,
    Job,
    check_that_a_killed_server_makes_the_same_video,
    engines_of,
    frames_in,
    noise_png,
    posted,
    rendered,
    sound_in,
    speaking_form,
    succeeded,
    tone,
    until,
    until_a_window_is_stored,
    video_of,
)
from lipsync_server.random_models import infinitetalk as random_models
from server_process import ServerProcess

# Two windows in half a second of video, nine in three.
SMALL_WINDOWS = '{"steps": 1, "window_frames": 13, "motion_frames": 5}'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("infinitetalk")


def _server(home: Path, data: str, engine: str) -> ServerProcess:
    options = {"ENGINE": "infinitetalk", "DEVICE": "cpu", "PRESET": "fast", "WEIGHTS_DIR": str(home / "weights")}
    return ServerProcess(home / data, engine, {"TOKENS": TOKEN, **options}, environment={"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    random_models.write(home / "weights")
    with _server(home, "data", "small").running() as server:
        yield server


def _still() -> tuple[bytes, str]:
    return noise_png(200, 64), "image/png"


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
    return speaking_form(content, content_type, duration_s, **fields)


def _with_second(form: aiohttp.FormData, duration_s: float) -> aiohttp.FormData:
    form.add_field("second_audio", tone(duration_s), filename="second.wav", content_type="audio/wav")
    return form


def check_video(video: bytes, n_frames: int, sound_s: float, size: tuple[int, int] = (64, 192)) -> None:
    """A task with this number of frames, this length of sound, and this height and width."""
    assert frames_in(video).shape == (n_frames, *size, 3)
    seconds, codec = sound_in(video)
    assert seconds == pytest.approx(sound_s, abs=0.03)
    assert codec == "aac"


async def test_a_picture_and_a_recording_become_a_video_of_the_right_length_and_size(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path
) -> None:
    with _server(home, "data-of-real-size", "product").running() as real:
        video = await rendered(session, real, _form(0.3, options='{"steps": 1}'))
    check_video(video, 8, 0.3, (320, 1216))


async def test_two_recordings_one_after_the_other_make_one_long_video(
    server: ServerProcess, session: aiohttp.ClientSession
) -> None:
    form = _form(0.2, options='{"steps": 1, "audio_mode": "one_after_other"}')
    check_video(await rendered(session, server, _with_second(form, 0.24)), 11, 0.44)


async def test_two_people_in_their_boxes_speak_together(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    form = _form(0.3, options='{"steps": 1, "people": [[5, 2, 90, 62], [110, 2, 195, 62]]}')
    check_video(await rendered(session, server, _with_second(form, 0.2)), 8, 0.3)


async def test_a_video_as_the_picture_is_dubbed(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    form = _form(0.56, _film(), options=SMALL_WINDOWS)
    check_video(await rendered(session, server, form), 14, 0.56)


async def test_a_server_killed_between_windows_makes_the_same_video(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path
) -> None:
    await check_that_a_killed_server_makes_the_same_video(
        session, server, home / "data", lambda: _form(3.0, options=SMALL_WINDOWS), n_frames=75
    )


async def test_a_killed_workers_job_resumes_after_the_last_finished_window(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path
) -> None:
    url = await posted(session, server, _form(3.0, options=SMALL_WINDOWS))
    # The encoder stores the first window while the second is being made.
    await until_a_window_is_stored(session, url, home / "data")
    workers = server.workers()
    assert len(workers) == 1
    workers[0].kill()
    workers[0].wait()
    # The killed run's progress note stays in the record until the next run reports progress.
    await until(session, url, lambda now: "window" not in now["progress"]["note"])
    seen: list[str] = []

    def ended(job: Job) -> bool:
        seen.append(job["progress"]["note"])
        return succeeded(job)

    finished = await until(session, url, ended)
    assert any("of 9" in note for note in seen)
    assert not any("window 1 of 9" in note for note in seen)
    assert finished["result"]["n_frames"] == 75
    check_video(await video_of(session, url), 75, 3.0)


async def test_infinitetalk_is_listed_for_two_people(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    infinitetalk = (await engines_of(session, server))["infinitetalk"]
    assert infinitetalk["available"] is True
    assert infinitetalk["max_people"] == 2


async def test_an_option_out_of_range_is_refused_by_name(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{server.url}/v1/jobs", data=_form(0.3, options='{"steps": 1000}')) as answer:
        problem = await answer.json()
    assert answer.status == 422
    assert "steps" in problem["detail"]

"""SadTalker from tiny model files through the real HTTP API and a real worker process."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import av
import numpy as np
import pytest
import requests
import soundfile
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.random_models import sadtalker as random_sadtalker
from material import read_frames
from PIL import Image
from server_process import ServerProcess

RATE_HZ = 44_100
# The longest wait for a video. Several test processes share two cores, so one may take minutes.
LIMIT_S = 600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("sadtalker-e2e")
    random_sadtalker.write(home / "weights" / "sadtalker")
    options = {"TOKENS": "T", "WEIGHTS_DIR": str(home / "weights"), "DEVICE": "cpu", "ENGINE": "auto"}
    server = ServerProcess(home / "data", "product", options, environment={"OMP_NUM_THREADS": "2"})
    server.start()
    yield server
    server.kill()


@pytest.fixture
def session(server: ServerProcess) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer T"
        retries = requests.adapters.Retry(20, backoff_factor=0.1)
        session.mount(server.url, requests.adapters.HTTPAdapter(max_retries=retries))
        yield session


def recording(folder: Path, duration_s: float) -> Path:
    """A stereo recording at 44.1 kHz, whose rate and channels the video must keep."""
    path = folder / "speech.wav"
    times = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    left = 0.3 * np.sin(2 * np.pi * 220 * times) * np.sin(2 * np.pi * 3 * times)
    soundfile.write(path, np.stack([left, 0.5 * left], axis=1), RATE_HZ)
    return path


def ended(session: requests.Session, url: str) -> dict[str, Any]:
    """The job once it has ended; its events stream ends with it."""
    deadline = time.monotonic() + LIMIT_S
    with session.get(f"{url}/events", stream=True, timeout=LIMIT_S) as events:
        for _ in events.iter_lines():
            assert time.monotonic() < deadline
    job: dict[str, Any] = session.get(url).json()
    return job


def test_auto_chooses_sadtalker_where_its_weights_are_present(server: ServerProcess, session: requests.Session) -> None:
    engines = {engine["name"]: engine for engine in session.get(f"{server.url}/v1/engines").json()["engines"]}
    assert engines["sadtalker"]["available"]
    assert engines["sadtalker"]["resolutions"] == ["256", "512"]
    assert "pose_style" in str(engines["sadtalker"])


def test_a_portrait_and_a_recording_become_a_video(
    server: ServerProcess, session: requests.Session, tmp_path: Path
) -> None:
    duration_s = 0.84  # 21 frames, on which the original crashes
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, recording(tmp_path, duration_s).open("rb") as sound:
        response = session.post(
            f"{server.url}/lipsync", files={"image": image, "audio": sound}, data={"prompt": "talking"}, timeout=LIMIT_S
        )
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "video/mp4"
    video = tmp_path / "video.mp4"
    video.write_bytes(response.content)
    info = probe_video(video)
    with Image.open(SAMPLES_DIR / "portrait.jpg") as portrait:
        width, height = portrait.size
    assert (info.n_frames, info.fps) == (21, 25)
    assert (info.width, info.height) == (width // 2 * 2, height // 2 * 2)
    with av.open(str(video)) as container:
        track = container.streams.audio[0]
        assert (track.codec_context.name, track.rate, track.channels) == ("aac", RATE_HZ, 2)
    job = session.get(f"{server.url}/v1/jobs/{response.headers['Lipsync-Job-Id']}").json()
    assert (job["engine"], job["state"]) == ("sadtalker", "succeeded")
    frames = read_frames(video)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 0.05


def test_options_of_sadtalker_reach_the_engine(
    server: ServerProcess, session: requests.Session, tmp_path: Path
) -> None:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, recording(tmp_path, 0.2).open("rb") as sound:
        response = session.post(
            f"{server.url}/v1/jobs",
            files={"image": image, "audio": sound},
            data={
                "engine": "sadtalker",
                "seed": "7",
                "options": '{"preprocess": "crop", "size": 512, "yaw": [-10, 10]}',
            },
            timeout=60,
        )
    assert response.status_code == 202, response.text
    job = ended(session, urljoin(response.url, response.headers["Location"]))
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["width"], job["result"]["n_frames"], job["result"]["seed"]) == (512, 5, 7)


def test_a_wrong_option_is_refused_before_any_work(
    server: ServerProcess, session: requests.Session, tmp_path: Path
) -> None:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, recording(tmp_path, 0.2).open("rb") as sound:
        response = session.post(
            f"{server.url}/v1/jobs",
            files={"image": image, "audio": sound},
            data={"engine": "sadtalker", "options": '{"pose_style": 46}'},
            timeout=60,
        )
    assert response.status_code == 422, response.text
    assert "pose_style" in response.json()["detail"]


def test_a_running_job_can_be_cancelled(server: ServerProcess, session: requests.Session, tmp_path: Path) -> None:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, recording(tmp_path, 60.0).open("rb") as sound:
        response = session.post(
            f"{server.url}/v1/jobs", files={"image": image, "audio": sound}, data={"engine": "sadtalker"}, timeout=60
        )
    url = urljoin(response.url, response.headers["Location"])
    with session.get(f"{url}/events", stream=True, timeout=LIMIT_S) as events:
        for line in events.iter_lines():
            if b'"generate"' in line:
                break
    assert session.delete(url).status_code in (200, 202, 204)
    assert ended(session, url)["state"] == "cancelled"

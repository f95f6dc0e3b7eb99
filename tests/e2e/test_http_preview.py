"""The main job over real HTTP with the real preview engine in its real worker process."""

import hashlib
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("e2e") / "data", "preview", {"TOKENS": "n8n:T"}).running() as server:
        yield server


@pytest.fixture
def session(server: ServerProcess) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = "Bearer T"
    return session


def short_speech(path: Path, seconds: float) -> Path:
    """The beginning of the shipped recording."""
    with wave.open(str(SAMPLES_DIR / "speech.wav")) as source, wave.open(str(path), "wb") as cut:
        cut.setparams(source.getparams())
        cut.writeframes(source.readframes(round(seconds * source.getframerate())))
    return path


def test_curl_as_in_the_readme_gives_a_video_of_the_right_length(
    server: ServerProcess, session: requests.Session, tmp_path: Path
) -> None:
    audio = short_speech(tmp_path / "a.wav", 2.0)
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, audio.open("rb") as sound:
        response = session.post(
            f"{server.url}/lipsync",
            files={"image": image, "audio": sound},
            data={"prompt": "A person talking"},
            timeout=120,
        )
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "video/mp4"
    assert response.headers["Content-Disposition"] == 'attachment; filename="lipsync.mp4"'
    video = tmp_path / "video.mp4"
    video.write_bytes(response.content)
    info = probe_video(video)
    assert (info.n_frames, info.fps) == (50, 25)
    job = session.get(f"{server.url}/v1/jobs/{response.headers['Lipsync-Job-Id']}").json()
    assert job["engine"] == "preview"
    assert job["result"]["sha256"] == hashlib.sha256(response.content).hexdigest()


def test_a_picture_without_a_face_is_refused_with_a_sentence(
    server: ServerProcess, session: requests.Session, tmp_path: Path
) -> None:
    from PIL import Image

    image = tmp_path / "wall.png"
    Image.new("RGB", (200, 200), (90, 120, 90)).save(image)
    audio = short_speech(tmp_path / "a.wav", 0.5)
    with image.open("rb") as picture, audio.open("rb") as sound:
        response = session.post(f"{server.url}/lipsync", files={"image": picture, "audio": sound}, timeout=120)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"].startswith("application/problem+json")
    assert response.json()["code"] == "no_face"

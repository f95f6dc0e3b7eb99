"""The form of a video over real HTTP: its shape and sound, its poster and previews, and refusals in words."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
import soundfile
from lipsync_server.media.sound.delivered import integrated_loudness
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image
from server_process import ServerProcess

SPOKEN_S = 1.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("formats") / "data", "preview", {}).running() as server:
        yield server


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples, rate_hz = soundfile.read(SAMPLES_DIR / "speech.wav", dtype="float32")
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    soundfile.write(path, samples[: round(SPOKEN_S * rate_hz)] * 0.2, rate_hz)
    return path


def send(server: ServerProcess, recording: Path, **fields: str) -> requests.Response:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, recording.open("rb") as audio:
        files = {"image": image, "audio": audio}
        return requests.post(f"{server.url}/lipsync", files=files, data=fields, timeout=120)


@pytest.fixture(scope="module")
def rendered(
    server: ServerProcess, recording: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A tall video of 240 lines with half a second of silence before the speech, at -14 LUFS; and its job."""
    answer = send(
        server, recording, format="9:16", height="240", lead_silence_s="0.5", loudness_lufs="-14"
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    path.write_bytes(answer.content)
    job = requests.get(f"{server.url}/v1/jobs/{answer.headers['Lipsync-Job-Id']}", timeout=10)
    return path, dict(job.json())


def test_the_video_has_the_wanted_shape_silence_and_loudness(
    rendered: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, job = rendered
    result = job["result"]
    assert (result["width"], result["height"]) == (136, 240)
    assert result["duration_s"] == pytest.approx(SPOKEN_S + 0.5, abs=0.001)
    with av.open(str(path)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (136, 240)
        heard = np.concatenate([frame.to_ndarray().mean(0) for frame in video.decode(audio=0)])
        rate_hz = video.streams.audio[0].rate
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, heard, rate_hz)
    assert integrated_loudness(sound) == pytest.approx(-14, abs=0.5)
    assert np.abs(heard[: round(0.4 * rate_hz)]).max() < 0.01 < np.abs(heard[round(0.6 * rate_hz) :]).max()


@pytest.mark.parametrize(
    ("link", "media_type", "kind"),
    [("poster", "image/jpeg", "JPEG"), ("preview_webp", "image/webp", "WEBP"), ("preview_gif", "image/gif", "GIF")],
)
def test_a_finished_video_has_a_poster_and_previews(
    server: ServerProcess, rendered: tuple[Path, dict[str, Any]], link: str, media_type: str, kind: str
) -> None:
    job = rendered[1]
    for _ in range(2):  # The preview is made at the first request and stored; the second request gets the stored file.
        answer = requests.get(server.url + job["links"][link], timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == media_type
        assert "inline" in answer.headers["Content-Disposition"]
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.format == kind
            assert picture.size == (136, 240)
    assert requests.get(f"{server.url}/v1/jobs/{job['id']}", timeout=10).json()["id"] == job["id"]
    short = requests.get(f"{server.url}/v1/jobs/{job['id']}/poster", timeout=60)
    assert short.headers["Content-Type"] == "image/jpeg"


def test_a_poster_of_no_video_is_refused_in_words(server: ServerProcess) -> None:
    answer = requests.get(f"{server.url}/v1/jobs/{'0' * 26}/poster.jpg", timeout=10)
    assert answer.status_code == 404
    assert "no job" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"format": "21:9"}, "format", "9:16"),
        ({"height": "481"}, "height", "even"),
        ({"height": "99999"}, "height", "2160"),
        ({"lead_silence_s": "11"}, "lead_silence_s", "10"),
        ({"loudness_lufs": "nan"}, "loudness_lufs", ""),
        ({"fill": "pink"}, "fill", "plain"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(
    server: ServerProcess, recording: Path, fields: dict[str, str], field: str, says: str
) -> None:
    answer = send(server, recording, **fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field
    assert says in answer.json()["detail"]

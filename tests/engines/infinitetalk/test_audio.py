"""Speech as the model's input: loudness, features and embedding, short and long, one piece or many."""

import math

import numpy as np
import pytest
import torch
from infinitetalk_golden import CPU, FILES, equal, error, golden, golden_json, golden_path, meets, within
from lipsync_server.models.encoders import speech as audio
from lipsync_server.models.encoders.loudness import gain_to_target, integrated_loudness
from lipsync_server.models.encoders.speech import SpeechEmbedding, Track, silence
from lipsync_server.models.encoders.wav2vec import Wav2Vec, build
from lipsync_server.random_models.numbers import randomise
from pyloudnorm import Meter
from transformers import Wav2Vec2Config


def _speech(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    n = int(seconds * 16000)
    loud = np.repeat(rng.random(n // 1600 + 1), 1600)[:n]
    return (rng.standard_normal(n) * loud * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Wav2Vec:
    """A small random model of the published architecture."""
    config = Wav2Vec2Config(
        hidden_size=32, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    network = build(config)
    randomise(network, device=CPU, dtype=torch.float32)
    return Wav2Vec(network, normalises=True, device=CPU)


@pytest.mark.parametrize("name", FILES.cases("D_audio/audio_cases.safetensors"))
def test_loudness_and_embedding_are_golden(name: str) -> None:
    case = {k[2:]: v for k, v in golden("D_audio/audio_cases.safetensors").items() if k.startswith(f"{name}.")}
    network = Wav2Vec.load(golden_path("D_audio/wav2vec2_tiny"), device=CPU)
    samples = case["waveform"].numpy()
    within(f"D audio {name} LUFS", abs(integrated_loudness(samples) - float(case["lufs_before"])), 1e-6)
    track = Track(samples, len(samples))
    normalised = track.read(0, len(samples))
    peak = float(case["loudness_normalised"].nan_to_num().abs().max())
    meets(f"D audio {name} loudness", torch.from_numpy(normalised) / peak, case["loudness_normalised"] / peak, 1e-6)
    embedding = SpeechEmbedding(network, track)
    s = embedding._statistics
    inputs = torch.from_numpy((normalised - np.float32(s.mean)) / np.float32(s.deviation))
    meets(f"D audio {name} input values", inputs, case["input_values"], 1e-5)
    features = embedding._convolve(0, network.n_features(len(samples)))
    meets(f"D audio {name} convolution features", features, case["conv_features"], 1e-4)
    meets(f"D audio {name} features", embedding.features(0, embedding.n_frames), case["interpolated"], 1e-4)
    meets(f"D audio {name} embedding", embedding.gather(np.arange(embedding.n_frames)), case["embedding"], 1e-4)
    windowed = embedding.gather(case["window_indices"].numpy())
    kept = windowed[::4] if name == "a" else windowed[:3]
    meets(f"D audio {name} windowed", kept, case["windowed"], 1e-4)


@pytest.mark.parametrize("seconds", [0.4, 0.75, 3.21, 61.3])
def test_loudness_is_pyloudnorms(seconds: float) -> None:
    speech = _speech(seconds)
    assert integrated_loudness(speech) == pytest.approx(Meter(16000).integrated_loudness(speech), abs=1e-5)


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.39])
def test_a_recording_too_short_for_the_meter_still_has_a_loudness(seconds: float) -> None:
    speech = _speech(seconds)
    assert -60 < integrated_loudness(speech) < 0
    assert integrated_loudness(speech * np.float32(gain_to_target(speech))) == pytest.approx(-23, abs=0.01)


def test_silence_is_left_as_it_is() -> None:
    assert integrated_loudness(np.zeros(8000, np.float32)) == -math.inf
    assert gain_to_target(np.zeros(8000, np.float32)) == 1


@pytest.mark.parametrize("seconds", [0.24, 1.16, 2.0, 61.03])
def test_features_equal_those_of_transformers(model: Wav2Vec, seconds: float) -> None:
    speech = _speech(seconds)
    track = Track(speech, len(speech))
    samples = track.read(0, len(speech)).astype(np.float64)
    inputs = torch.from_numpy((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).float()
    n_frames = int(len(speech) / 16000 * 25)
    with torch.inference_mode():
        whole = model._model.feature_extractor(inputs[None])[0].T
        whole = torch.nn.functional.interpolate(whole.T[None], size=n_frames, mode="linear", align_corners=True)[0].T
    embedding = SpeechEmbedding(model, track)
    assert embedding.n_frames == n_frames
    assert error(embedding.features(0, n_frames), whole) < 1e-5


def test_features_do_not_depend_on_the_pieces_they_are_made_in(model: Wav2Vec, monkeypatch: pytest.MonkeyPatch) -> None:
    speech = _speech(7.0)
    whole = SpeechEmbedding(model, Track(speech, len(speech))).features(0, 175)
    monkeypatch.setattr(audio, "_PIECE", 5000)
    pieces = SpeechEmbedding(model, Track(speech, len(speech)))
    assert error(torch.cat([pieces.features(i, min(i + 23, 175)) for i in range(0, 175, 23)]), whole) < 1e-5


def test_up_to_80_seconds_attention_sees_everything(model: Wav2Vec) -> None:
    speech = _speech(80.0)
    track = Track(speech, len(speech))
    embedding = SpeechEmbedding(model, track)
    one_pass = torch.stack(model.encode(embedding.features(0, 2000))[1:], 1)
    assert error(embedding.gather(np.arange(2000)), one_pass) == 0


def test_longer_recordings_are_made_in_blocks_close_to_one_pass(model: Wav2Vec) -> None:
    speech = _speech(130.0)
    embedding = SpeechEmbedding(model, Track(speech, len(speech)))
    assert embedding._block_frames == 1500
    blocks = embedding.gather(np.arange(3250))
    one_pass = torch.stack(model.encode(embedding.features(0, 3250))[1:], 1)
    # A random network attends to all positions evenly, so sound beyond the context changes its output more
    # than sound beyond the context changes a trained network's.
    assert float((blocks - one_pass).norm() / one_pass.norm()) < 0.1
    border = slice(1480, 1520)
    assert float((blocks[border] - one_pass[border]).norm() / one_pass[border].norm()) < 0.1


def test_only_two_blocks_are_kept(model: Wav2Vec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "ONE_PASS_FRAMES", 100)
    monkeypatch.setattr(audio, "_BLOCK_FRAMES", 50)
    monkeypatch.setattr(audio, "_CONTEXT_FRAMES", 25)
    speech = _speech(20.0)
    embedding = SpeechEmbedding(model, Track(speech, len(speech)))
    for start in range(0, 480, 20):
        embedding.gather(np.arange(start, start + 20)[:, None] + np.arange(-2, 3)[None].clip(0))
    assert len(embedding._blocks) == 2


@pytest.mark.parametrize("seconds", [0.2, 0.4, 1.0])
def test_the_shortest_recordings_have_an_embedding(model: Wav2Vec, seconds: float) -> None:
    speech = _speech(seconds)
    embedding = SpeechEmbedding(model, Track(speech, len(speech)))
    values = embedding.gather(np.arange(embedding.n_frames))
    assert values.shape == (round(seconds * 25), 12, 32)
    assert bool(values.isfinite().all())


def test_two_recordings_one_after_the_other_as_in_the_reference() -> None:
    expected = golden_json("D_audio/multi.json")
    first, second = _speech(4.0), _speech(2.5, seed=1)
    n_samples = len(first) + len(second)
    one, two = Track(first, n_samples), Track(second, n_samples, offset=len(first))
    equal("D two recordings, length", n_samples, expected["add_lengths"][0])
    assert np.flatnonzero(one.read(0, n_samples)).max() < expected["add_person1_nonzero"][1]
    assert np.flatnonzero(two.read(0, n_samples)).min() >= expected["add_person2_starts_at"]


def test_zero_audio_has_one_person() -> None:
    window = torch.rand(2, 9, 5, 12, 8)
    quiet = silence(9, window)
    assert quiet.shape == (1, 9, 5, 12, 8)
    assert float(quiet.abs().max()) == 0

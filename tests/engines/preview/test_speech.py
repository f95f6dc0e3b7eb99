"""The mouth follows speech: shut on p, b, m and in pauses, open on open vowels, for any length, in bounded memory."""

import importlib.util
import json
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lipsync_server.engines.base import SPEECH_RATE_HZ, n_frames_for
from lipsync_server.engines.preview.readout import LIKE_TH, TONGUE_TIP
from lipsync_server.engines.preview.speech import mouth_track, speech_track
from numpy.typing import NDArray

DATA = Path(__file__).parents[2] / "data" / "preview"
FPS = 25
Phones = list[tuple[str, float, float]]


def _load(name: str) -> tuple[NDArray[np.float32], Phones]:
    speech, rate = soundfile.read(DATA / f"{name}.ogg", dtype="float32")
    assert rate == SPEECH_RATE_HZ
    return speech, [tuple(p) for p in json.loads((DATA / f"{name}.json").read_text())["phones"]]


def _track(speech: NDArray[np.float32], fps: int = FPS) -> NDArray[np.float32]:
    return mouth_track(speech, n_frames_for(len(speech) / SPEECH_RATE_HZ, fps), fps)


def _mean_on(track: NDArray[np.float32], phones: Phones, names: str, column: int = 0) -> float:
    at = [(a + b) / 2 for name, a, b in phones if name in names.split()]
    assert len(at) >= 3, f"the recording has too few of {names}"
    return float(np.mean(np.interp(at, np.arange(len(track)) / FPS, track[:, column])))


def _near(track: NDArray[np.float32], start_s: float, end_s: float, column: int) -> NDArray[np.float32]:
    frames = np.arange(len(track)) / FPS
    near: NDArray[np.float32] = track[(frames >= start_s - 0.04) & (frames <= end_s + 0.04), column]
    return near


@pytest.mark.parametrize(("name", "share"), [("speech_en", 0.8), ("speech_de", 0.65)])
def test_the_lips_close_on_p_b_and_m(name: str, share: float) -> None:
    speech, phones = _load(name)
    track = _track(speech)
    wide = float(np.percentile(track[:, 0], 95))
    closed = [_near(track, a, b, 0).min() < 0.15 * wide for phone, a, b in phones if phone in ("P", "B", "M")]
    assert len(closed) >= 10
    assert np.mean(closed) >= share


@pytest.mark.parametrize("name", ["speech_en", "speech_de"])
def test_press_marks_p_b_and_m_and_not_vowels(name: str) -> None:
    speech, phones = _load(name)
    track = _track(speech)
    pressed = [_near(track, a, b, 2).max() > 0.5 for phone, a, b in phones if phone in ("P", "B", "M")]
    assert np.mean(pressed) >= 0.5
    assert _mean_on(track, phones, "A AA AE AH AO O EH E IH IY UW UH AX", 2) < 0.15


def test_open_vowels_open_the_mouth_wider_than_close_ones() -> None:
    speech, phones = _load("speech_en")
    track = _track(speech)
    assert _mean_on(track, phones, "A AA AE") > 1.5 * _mean_on(track, phones, "IY UW UH O")


def test_speech_uses_a_visible_part_of_the_range() -> None:
    for name in ("speech_en", "speech_de"):
        track = _track(_load(name)[0])
        assert 0.35 < np.percentile(track[:, 0], 95) <= 1


@pytest.mark.parametrize("noise_db", [-90, -45])
def test_pauses_are_shut_also_over_background_noise(noise_db: float) -> None:
    speech, _ = _load("speech_en")
    pause = np.zeros(SPEECH_RATE_HZ, np.float32)
    rng = np.random.default_rng(0)
    sound = np.concatenate([speech, pause, speech])
    sound = (sound + rng.normal(0, 10 ** (noise_db / 20), len(sound))).astype(np.float32)
    track = _track(sound)
    frames = np.arange(len(track)) / FPS
    inside = (frames > len(speech) / SPEECH_RATE_HZ + 0.15) & (frames < len(speech) / SPEECH_RATE_HZ + 0.85)
    assert track[inside, 0].max() < 0.05
    assert track[~inside, 0].max() > 0.4


@pytest.mark.parametrize("level", [0.0, 1e-5, 2e-4])
def test_silence_stays_shut(level: float) -> None:
    hiss = np.random.default_rng(1).normal(0, 1, 5 * SPEECH_RATE_HZ) * level
    assert not mouth_track(hiss.astype(np.float32), 125)[:, 0].any()


def test_steady_noise_alone_hardly_moves_the_mouth() -> None:
    noise = np.random.default_rng(2).normal(0, 0.05, 6 * SPEECH_RATE_HZ).astype(np.float32)
    assert np.percentile(_track(noise)[:, 0], 90) < 0.1


@pytest.mark.parametrize("gain", [0.01, 0.2, 1.6])
def test_loudness_does_not_change_the_mouth_much(gain: float) -> None:
    speech, _ = _load("speech_en")
    plain, other = _track(speech), _track(speech * np.float32(gain))
    assert np.corrcoef(plain[:, 0], other[:, 0])[0, 1] > 0.95


def test_clipped_sound_still_moves_the_mouth_alike() -> None:
    speech, _ = _load("speech_en")
    clipped = np.clip(speech * 8, -1, 1).astype(np.float32)
    assert np.corrcoef(_track(speech)[:, 0], _track(clipped)[:, 0])[0, 1] > 0.75


def test_the_mouth_moves_smoothly() -> None:
    opening = _track(_load("speech_en")[0])[:, 0]
    jerk = np.sqrt((np.diff(opening, 3) ** 2).mean()) / (np.percentile(opening, 95) - np.percentile(opening, 5))
    assert jerk < 0.65


@settings(deadline=None, max_examples=25)
@given(n_samples=st.integers(0, 40_000), n_frames=st.integers(0, 80), fps=st.sampled_from([24, 25, 30, 50, 60]))
def test_any_length_gives_the_frames_asked_for(n_samples: int, n_frames: int, fps: int) -> None:
    sound = np.resize(_load("speech_en")[0], n_samples).astype(np.float32)
    track = mouth_track(sound, n_frames, fps)
    assert track.shape == (n_frames, 3) and track.dtype == np.float32
    assert np.isfinite(track).all()
    assert track[:, 0].min(initial=0) >= 0 and track[:, 0].max(initial=0) <= 1
    assert np.abs(track[:, 1]).max(initial=0) <= 1
    assert track[:, 2].min(initial=0) >= 0 and track[:, 2].max(initial=0) <= 1


def test_samples_that_are_not_numbers_do_no_harm() -> None:
    speech, _ = _load("speech_en")
    broken = speech.copy()
    broken[5000:5100] = np.nan
    broken[9000] = np.inf
    assert np.isfinite(_track(broken)).all()


def test_a_long_recording_gives_what_its_part_gives() -> None:
    speech, _ = _load("speech_en")
    minute = np.resize(np.concatenate([speech, np.zeros(8000, np.float32)]), 120 * SPEECH_RATE_HZ).astype(np.float32)
    whole = _track(minute)
    start_s, stop_s = 30, 75
    part = _track(minute[start_s * SPEECH_RATE_HZ : stop_s * SPEECH_RATE_HZ])
    edge = 7 * FPS
    np.testing.assert_allclose(part[edge:-edge], whole[start_s * FPS : stop_s * FPS][edge:-edge], atol=2e-3)


def test_five_minutes_need_little_time_and_no_more_memory_than_one(tmp_path: Path) -> None:
    speech, _ = _load("speech_en")
    peaks = []
    for minutes in (1, 5):
        path = tmp_path / f"{minutes}.f32"
        np.resize(speech, minutes * 60 * SPEECH_RATE_HZ).astype(np.float32).tofile(path)
        mapped = np.memmap(path, np.float32, "r")
        tracemalloc.start()
        begin = time.process_time()
        mouth_track(mapped, minutes * 60 * FPS)
        spent_s = time.process_time() - begin
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert spent_s < 0.02 * minutes * 60
    assert peaks[1] < 1.3 * peaks[0] + 1e6
    assert peaks[1] < 64e6


def test_the_tongue_rises_for_l_and_n_more_than_for_other_sounds() -> None:
    at_teeth: list[float] = []
    elsewhere: list[float] = []
    for name in ("speech_en", "speech_de"):
        speech, phones = _load(name)
        fps = 100
        tongue = speech_track(speech, n_frames_for(len(speech) / SPEECH_RATE_HZ, fps), fps)[:, 4]
        for phone, start_s, end_s in phones:
            heights = at_teeth if phone in TONGUE_TIP else elsewhere
            heights.append(float(tongue[round(fps * start_s) : round(fps * end_s) + 1].max()))
    assert np.mean(at_teeth) > 0.6
    assert np.mean(elsewhere) < 0.4


def test_the_tongue_rises_for_much_of_th_in_english() -> None:
    speech, phones = _load("speech_th")
    fps = 100
    tongue = speech_track(speech, n_frames_for(len(speech) / SPEECH_RATE_HZ, fps), fps)[:, 4]
    heights = [
        float(tongue[round(fps * start_s) : round(fps * end_s) + 1].max())
        for phone, start_s, end_s in phones
        if phone in ("TH", "DH")
    ]
    assert len(heights) >= 12
    assert np.mean(np.array(heights) > 0.5) >= 0.4


def test_the_sounds_of_the_tongue_have_the_places_that_the_training_gave_them() -> None:
    file = Path(__file__).parents[3] / "server/training/preview_mouth/phones.py"
    source = importlib.util.spec_from_file_location("phones_of_the_training", file)
    assert source is not None and source.loader is not None
    phones = importlib.util.module_from_spec(source)
    sys.modules[source.name] = phones  # its dataclasses look their module up
    source.loader.exec_module(phones)
    places = {**TONGUE_TIP, **LIKE_TH}
    assert {name: phones.INDEX[name] for name in places} == places

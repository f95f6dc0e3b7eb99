"""Sound as the networks' input: mel, windows, blinks, and any length without a crash."""

import json

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from lipsync_server.engines.sadtalker.audio.blink import blink_track
from lipsync_server.engines.sadtalker.audio.mel import (
    SAMPLES_PER_FRAME,
    first_column,
    mel_basis,
    mel_columns,
    mel_windows,
    n_columns,
    n_whole_frames,
)
from sadtalker_golden import FILES, arrays, big, small, within

FRONT_END = json.loads(small("front_end.json").read_text())


def mel_of(speech: np.ndarray) -> np.ndarray:
    n_frames = n_whole_frames(len(speech))
    return mel_columns(speech, n_frames * SAMPLES_PER_FRAME, 0, n_columns(n_frames))


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("case", FRONT_END["cases"], ids=lambda case: str(case["case"]))
def test_mel_windows_and_blinks_meet_the_golden_data(case: dict[str, int]) -> None:
    data = arrays(small("front_end.npz"))
    name, n_frames = f"c{case['case']}", case["num_frames"]
    speech = data[f"{name}.wav"]
    within(f"mel {name}", 1e-6, mel_of(speech), data[f"{name}.mel"])
    within(f"mel windows {name}", 2e-6, mel_windows(speech, n_frames, 0, n_frames), data[f"{name}.windows"][0, :, 0])
    within(f"blink {name}", 0, blink_track(n_frames, case["blink_seed"]), data[f"{name}.ratio"][0, :, 0])


def test_mel_bands_meet_the_golden_data() -> None:
    within("mel basis", 1e-8, mel_basis(), arrays(small("front_end.npz"))["mel_basis"])


def test_frames_and_columns_are_counted_as_the_reference_counts() -> None:
    assert [first_column(frame) for frame in range(60)] == FRONT_END["first_mel_column_for_frame_0_to_59"]
    for n_samples, n_kept, n_frames in FRONT_END["frame_count"]:
        assert (n_whole_frames(n_samples) * SAMPLES_PER_FRAME, n_whole_frames(n_samples)) == (n_kept, n_frames)


def test_silence_is_exactly_the_lowest_value() -> None:
    assert np.unique(mel_of(np.zeros(6400, np.float32))).tolist() == [-4.0]


@pytest.mark.parametrize("name", FILES.cases("audio/resample.npz"))
def test_mel_of_resampled_sound_is_near_the_golden_data(name: str) -> None:
    data = arrays(big("audio/resample.npz"))
    pcm = data[f"{name}.in.pcm_i16"].astype(np.float32) / 32768
    speech = soxr.resample(pcm.mean(axis=1) if pcm.ndim == 2 else pcm, int(data[f"{name}.in.rate"]), 16_000, "HQ")
    mel, wanted = mel_of(speech.astype(np.float32)), data[f"{name}.out.mel"]
    within(f"resampled mel {name}, mean", 0.02, mel, wanted, mean=True)
    within(f"resampled mel {name}, lowest 60 bands, mean", 1e-3, mel[:, :60], wanted[:, :60], mean=True)
    within(f"mel of the reference's own 16 kHz {name}", 1e-6, mel_of(data[f"{name}.out.wav_16k"]), wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 60), st.integers(-700, 700))
def test_windows_of_a_stretch_equal_those_of_the_whole(n_frames: int, first: int, length: int, extra: int) -> None:
    first = min(first, n_frames - 1)
    stop = min(first + length, n_frames)
    speech = noise(max(1, n_frames * SAMPLES_PER_FRAME + extra))
    whole = mel_windows(speech, n_frames, 0, n_frames)
    assert np.array_equal(mel_windows(speech, n_frames, first, stop), whole[first:stop])


def test_sound_after_the_last_sample_is_silence() -> None:
    speech = noise(1000)
    padded = np.concatenate([speech, np.zeros(600, np.float32)])
    assert np.array_equal(mel_windows(speech, 2, 0, 2), mel_windows(padded, 2, 0, 2))


def test_blinks_are_drawn_as_the_reference_draws() -> None:
    for case in json.loads(small("blink.json").read_text())["random_sequences"]:
        wanted = np.zeros(case["num_frames"], np.float32)
        for frame, value in case["nonzero_frame_value"]:
            wanted[frame] = value
        assert np.array_equal(blink_track(case["num_frames"], case["python_random_seed"]), wanted)


@given(st.integers(1, 400), st.integers(0, 2**63 - 1))
def test_any_length_blinks_without_a_crash_and_whole_blinks_only(n_frames: int, seed: int) -> None:
    track = blink_track(n_frames, seed)
    assert len(track) == n_frames
    assert track.sum() == pytest.approx(3.8 * (track == 1).sum(), rel=1e-5)
    if n_frames >= 160:
        assert track.max() == 1


def test_exactly_21_frames_have_no_blink_where_the_original_crashes() -> None:
    assert not blink_track(21, 0).any()

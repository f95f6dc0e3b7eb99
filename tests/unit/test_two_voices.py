"""Two people's recordings in one video: both are heard, and the picture lasts as long as both."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from lipsync_server.errors import InvalidInput
from lipsync_server.media.sound.mix import mix
from lipsync_server.settings import Settings
from lipsync_server.workers.rendering.render import render
from material import make_task
from numpy.typing import NDArray
from stand_in.engine import BarsEngine
from stand_in.options import Options


def tone(path: Path, hz: float, duration_s: float, rate_hz: int, channels: int = 1, level: float = 0.4) -> Path:
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    samples = level * np.sin(2 * np.pi * hz * times)
    soundfile.write(path, np.repeat(samples[:, None], channels, axis=1), rate_hz, subtype="FLOAT")
    return path


def loudness(samples: NDArray[np.float64], hz: float, rate_hz: int) -> float:
    """Amplitude of the tone `hz` in `samples`."""
    times = np.arange(len(samples)) / rate_hz
    return float(2 * abs(np.mean(samples * np.exp(-2j * np.pi * hz * times))))


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (44_100, 1), (16_000, 2), (48_000, 2)])
def test_together_both_are_heard_at_once_and_the_longer_one_to_its_end(
    tmp_path: Path, rate_hz: int, channels: int
) -> None:
    first = tone(tmp_path / "a.wav", 300, 2.0, 16_000)
    second = tone(tmp_path / "b.wav", 1000, 3.5, rate_hz, channels)
    for one, two in ((first, second), (second, first)):
        assert mix(one, two, tmp_path / "mixed.wav", one_after_other=False) == pytest.approx(3.5, abs=1e-4)
        mixed, rate = soundfile.read(tmp_path / "mixed.wav", always_2d=True)
        assert (rate, mixed.shape[1]) == (max(16_000, rate_hz), channels)
        early, late = mixed[rate // 2 : rate * 3 // 2, 0], mixed[rate * 5 // 2 : rate * 3, 0]
        assert loudness(early, 300, rate) == pytest.approx(0.4, abs=0.02)
        assert loudness(early, 1000, rate) == pytest.approx(0.4, abs=0.02)
        assert loudness(late, 300, rate) < 0.01
        assert loudness(late, 1000, rate) == pytest.approx(0.4, abs=0.02)


def test_one_after_other_the_second_starts_where_the_first_ends(tmp_path: Path) -> None:
    first, second = tone(tmp_path / "a.wav", 300, 1.0, 16_000), tone(tmp_path / "b.wav", 1000, 2.0, 44_100)
    assert mix(first, second, tmp_path / "mixed.wav", one_after_other=True) == pytest.approx(3.0, abs=1e-4)
    mixed, rate = soundfile.read(tmp_path / "mixed.wav")
    assert loudness(mixed[: int(rate * 0.95)], 1000, rate) < 0.02
    assert loudness(mixed[int(rate * 1.05) :], 300, rate) < 0.02
    assert loudness(mixed[rate * 3 // 2 : rate * 5 // 2], 1000, rate) == pytest.approx(0.4, abs=0.02)


def test_two_loud_voices_are_turned_down_alike_instead_of_clipped(tmp_path: Path) -> None:
    first = tone(tmp_path / "a.wav", 300, 12.0, 16_000, level=0.9)
    second = tone(tmp_path / "b.wav", 1000, 12.0, 16_000, level=0.6)
    mix(first, second, tmp_path / "mixed.wav", one_after_other=False)
    mixed, rate = soundfile.read(tmp_path / "mixed.wav")
    assert len(mixed) == 12 * rate
    assert np.abs(mixed).max() == pytest.approx(1.0, abs=1e-4)
    assert loudness(mixed, 300, rate) / loudness(mixed, 1000, rate) == pytest.approx(1.5, abs=0.01)


class _Couple(Options):
    audio_mode: str = "together"


@pytest.mark.parametrize(("mode", "n_frames"), [("together", 75), ("one_after_other", 125)])
def test_the_video_carries_both_voices_and_is_as_long_as_they_are(tmp_path: Path, mode: str, n_frames: int) -> None:
    task = make_task(tmp_path, duration_s=2.0, audio_mode=mode)
    task = replace(task, second_audio=tone(tmp_path / "second.wav", 1000, 3.0, 44_100))
    outcome = render(BarsEngine(tmp_path), task, lambda event: None, lambda: False, Settings(), options_model=_Couple)
    assert outcome.n_frames == n_frames
    with av.open(str(task.output)) as container:
        rate = container.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(sound) / rate == pytest.approx(n_frames / 25, abs=0.04)
    assert loudness(sound[rate // 2 : rate * 3 // 2], 220, rate) == pytest.approx(0.3, abs=0.05)
    end = sound[-rate // 2 : -rate // 10]
    assert loudness(end, 1000, rate) == pytest.approx(0.4, abs=0.05)


def test_an_engine_for_one_person_refuses_a_second_recording(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    task = replace(task, second_audio=task.audio)
    with pytest.raises(InvalidInput, match="leave second_audio out") as raised:
        render(BarsEngine(tmp_path), task, lambda event: None, lambda: False, Settings(), options_model=Options)
    assert raised.value.field == "second_audio"

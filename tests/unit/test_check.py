"""The check of a finished video: its score and findings on curves and pictures with known faults."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lipsync_server.check.agreement import Expected, agree
from lipsync_server.check.judge import judge
from lipsync_server.check.listen import Heard, listen
from lipsync_server.check.mouth import GRID_HZ, Curve
from lipsync_server.check.origin import moves_by_prediction
from lipsync_server.check.quality import Quality
from lipsync_server.check.sheet import write_sheet
from lipsync_server.check.watch import FPS, Seen
from lipsync_server.cli.app import app
from lipsync_server.engines.registry import SHIPPED
from PIL import Image
from typer.testing import CliRunner

SECONDS = 12
N = int(SECONDS * FPS)
HEARD = Heard(duration_s=SECONDS, loud_db=-20.0, clipped=0.0, silences=())


def test_an_engine_declares_that_it_moves_the_mouth_by_the_checks_prediction() -> None:
    assert [name for name in SHIPPED if moves_by_prediction(name)] == ["preview"]
    assert not moves_by_prediction("an-engine-of-before")
    assert not moves_by_prediction(None)


def speech_curve(seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A mouth opening like that of speech: 100 values a second from 0 to 1, random, with changes up to about 5 Hz."""
    noise = np.random.default_rng(seed).normal(size=SECONDS * GRID_HZ)
    curve = np.convolve(noise, np.hanning(25), "same")
    return np.asarray(np.clip(0.4 + curve / (4 * curve.std()), 0, 1), np.float64)


def seen(
    opening: np.ndarray[tuple[int], np.dtype[np.float64]], **changed: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> Seen:
    """A faultless video whose mouth follows `opening`; each series may be replaced."""
    at = np.arange(N) * GRID_HZ // round(FPS)
    face = np.where(np.arange(N) % 2, np.nan, 1.0)
    steady = np.ones(N)
    video = Seen(
        pictures=(),
        luma=120 * steady, contrast=50 * steady, detail=100 * steady, noise=0 * steady, red=0.4 * steady,
        blue=0.3 * steady, change=1.0 * steady, flicker=0.5 * steady, face=face, opening=0.08 * opening[at] * face,
        height=0.5 * face, x=0.5 * face, y=0.5 * face, unlike=0.03 * face,
    )  # fmt: skip
    for name, series in changed.items():
        assert name != "pictures"
        object.__setattr__(video, name, series)
    return video


def lips(opening: Curve) -> Expected:
    """The lips of a speech with this opening: pressed where the opening is shut."""
    return Expected(opening, (opening < 0.02).astype(np.float64))


def score_of(video: Seen, expected: Curve, heard: Heard | None = HEARD) -> Quality:
    return judge(video, heard, lips(expected), expects_face=True)


def test_a_mouth_that_follows_the_speech_scores_high() -> None:
    curve = speech_curve()
    quality = score_of(seen(curve), curve)
    assert quality.score is not None and quality.score > 0.9
    assert not quality.findings


@pytest.mark.parametrize("late_ms", [-400, -160, -80, 80, 160, 400])
def test_a_mouth_out_of_sync_scores_low_and_the_lag_is_reported(late_ms: int) -> None:
    curve = speech_curve()
    quality = score_of(seen(np.roll(curve, late_ms // 10)), curve)
    assert quality.score is not None and quality.score < 0.6
    assert quality.lag_ms == pytest.approx(late_ms, abs=20)
    assert any(finding.name == "lag" for finding in quality.findings)


def test_the_mouth_of_other_words_scores_low() -> None:
    quality = score_of(seen(speech_curve(1)), speech_curve(2))
    assert quality.score is not None and quality.score < 0.6


HALF = (np.arange(N) >= N // 2).astype(float)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("frozen", {"change": 1.0 - HALF}),
        ("black", {"luma": 120 * (1 - HALF), "contrast": 50 * (1 - HALF)}),
        ("noise", {"noise": 60 * HALF}),
        ("flicker", {"luma": 120.0 + 10 * (np.arange(N) % 2)}),
        ("colour_drift", {"red": 0.4 + 0.1 * np.arange(N) / N}),
        ("sharpness_drift", {"detail": 100 * (1 - 0.9 * np.arange(N) / N)}),
    ],
)
def test_a_fault_of_the_picture_is_named_with_its_time_and_costs_the_score(
    name: str, changed: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]
) -> None:
    curve = speech_curve()
    quality = score_of(seen(curve, **changed), curve)
    found = [finding for finding in quality.findings if finding.name == name]
    assert found, quality.findings
    assert 0 <= found[0].from_s < found[0].to_s <= SECONDS
    assert quality.score is not None and quality.score < 0.6


def test_a_video_without_a_face_has_no_score_where_none_is_expected() -> None:
    nothing = np.full(N, np.nan)
    none = np.where(np.arange(N) % 2, np.nan, 0.0)
    video = replace(seen(speech_curve()), face=none, opening=nothing, height=nothing)
    quality = judge(video, HEARD, lips(speech_curve()), expects_face=False)
    assert quality.score is None
    assert [finding.name for finding in quality.findings] == ["no_face"]
    lost = judge(video, HEARD, lips(speech_curve()), expects_face=True)
    assert lost.score == 0


def test_a_mouth_that_the_same_prediction_moves_has_no_score() -> None:
    quality = judge(seen(speech_curve()), HEARD, lips(speech_curve()), expects_face=True, no_score="by_prediction")
    assert quality.score is None
    assert [finding.name for finding in quality.findings] == ["by_prediction"]


def test_missing_silent_and_clipped_sound_are_named() -> None:
    curve = speech_curve()
    missing = judge(seen(curve), None, None, expects_face=True)
    assert missing.score == 0 and "no_sound" in {finding.name for finding in missing.findings}
    silent = listen(np.zeros(16_000 * SECONDS, np.float32))
    assert silent.is_silent
    assert {"silence", "no_speech"} <= {finding.name for finding in score_of(seen(curve), 0 * curve, silent).findings}
    loud = listen(np.clip(4 * np.sin(np.arange(16_000 * SECONDS) / 20), -1, 1).astype(np.float32))
    assert "clipped" in {finding.name for finding in score_of(seen(curve), curve, loud).findings}


def test_the_sheet_is_a_jpeg_with_the_pictures(tmp_path: Path) -> None:
    curve = speech_curve()
    picture = np.full((90, 160, 3), 200, np.uint8)
    video = replace(seen(curve), pictures=tuple((float(i), picture) for i in range(12)))
    write_sheet(tmp_path / "sheet.jpg", video, curve, score_of(video, curve))
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 1000 and sheet.height > 200


def test_the_lag_is_positive_for_a_mouth_that_comes_late() -> None:
    curve = speech_curve()
    assert agree(lips(curve), np.roll(curve, 12)).lag_ms == pytest.approx(120, abs=2)


@pytest.mark.parametrize("late_ms", [-63, 26, 57, 84])
def test_the_lag_is_measured_finer_than_the_grid_and_than_a_frame(late_ms: int) -> None:
    curve = speech_curve()
    seconds = np.arange(len(curve)) / GRID_HZ
    frames = np.interp(np.arange(N) / FPS, seconds + late_ms / 1000, curve)
    seen_on_grid = np.interp(seconds, np.arange(N) / FPS, frames)
    assert agree(lips(curve), seen_on_grid).lag_ms == pytest.approx(late_ms, abs=5)


def test_lip_presses_give_the_time_where_the_opening_is_ambiguous() -> None:
    """The opening repeats every 200 ms, so it fits every shift by 200 ms. The presses fit one."""
    time_s = np.arange(SECONDS * GRID_HZ) / GRID_HZ
    opening = 0.65 - 0.35 * np.cos(2 * np.pi * 5 * time_s)
    pressed = np.zeros(len(time_s))
    for second, part in enumerate(np.random.default_rng(3).integers(0, 80, SECONDS)):
        pressed[second * GRID_HZ + part :][:8] = 1
    seen_opening = np.where(pressed > 0, 0, 0.08 * opening)
    for late in (-40, -20, 20, 40):
        assert agree(Expected(opening, pressed), np.roll(seen_opening, late)).lag_ms == pytest.approx(10 * late, abs=10)


def test_the_command_names_the_kind_of_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("not a video")
    ended = CliRunner().invoke(app, ["check", str(tmp_path / "a.mp4"), "--json"])
    assert ended.exit_code == 2, json.dumps(ended.output)

"""Lipsync as a library renders as a job of the server does, without a server."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from lipsync_server import Lipsync
from lipsync_server.errors import Cancelled, EngineUnavailable, InvalidInput
from lipsync_server.paths import SAMPLES_DIR

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
PORTRAIT = SAMPLES_DIR / "portrait.jpg"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first second of the shipped recording."""
    import soundfile

    samples, rate_hz = soundfile.read(SAMPLES_DIR / "speech.wav", frames=16_000)
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, samples, rate_hz)
    return path


def n_frames_of(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def test_one_engine_renders_several_videos_and_loads_once(speech: Path, tmp_path: Path) -> None:
    with Lipsync("preview") as engine:
        engine.load()
        first = engine._engine
        results = [engine.render(PORTRAIT, speech, tmp_path / f"{n}.mp4", seed=n) for n in (1, 2)]
        assert engine._engine is first
    assert [result.seed for result in results] == [1, 2]
    for n, result in zip((1, 2), results, strict=True):
        assert n_frames_of(tmp_path / f"{n}.mp4") == result.n_frames


def test_frames_cover_the_recording_and_are_as_many_as_the_videos(speech: Path, tmp_path: Path) -> None:
    with Lipsync("preview") as engine:
        expected = engine.render(PORTRAIT, speech, tmp_path / "video.mp4").n_frames
        batches = list(engine.frames(str(PORTRAIT), str(speech)))
    frames = np.concatenate(batches)
    assert frames.dtype == np.uint8
    assert frames.shape[0] == expected
    assert frames.shape[3] == 3


def test_leaving_the_loop_early_leaves_the_engine_usable(speech: Path, tmp_path: Path) -> None:
    with Lipsync("preview") as engine:
        for _ in engine.frames(PORTRAIT, speech):
            break
        assert engine.render(PORTRAIT, speech, tmp_path / "video.mp4").n_frames > 0


def test_warnings_are_those_of_a_job(speech: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with Lipsync("preview") as engine:
        outcome = engine.render(PORTRAIT, speech, tmp_path / "video.mp4", prompt="a beach", preset="fast")
        for _ in engine.frames(PORTRAIT, speech, prompt="a beach", on_warning=said.append):
            break
    assert any("does not read a prompt" in warning for warning in outcome.warnings)
    assert any("preset" in warning for warning in outcome.warnings)
    assert any("does not read a prompt" in warning for warning in said)


def test_a_wrong_option_setting_or_engine_is_one_sentence(speech: Path, tmp_path: Path) -> None:
    with Lipsync("preview") as engine:
        with pytest.raises(InvalidInput, match=r"no option 'beard'.*blinks"):
            engine.render(PORTRAIT, speech, tmp_path / "video.mp4", beard=True)
        with pytest.raises(InvalidInput, match="There is no file"):
            engine.render("nobody.jpg", speech, tmp_path / "video.mp4")
        with pytest.raises(InvalidInput, match=r"video\.mp4"):
            engine.render(PORTRAIT, speech, tmp_path / "video.avi")
        with pytest.raises(InvalidInput, match="seed"):
            engine.render(PORTRAIT, speech, tmp_path / "video.mp4", seed=-1)
    with pytest.raises(InvalidInput, match="no setting beard"):
        Lipsync("preview", beard=True)
    with pytest.raises(InvalidInput, match="device"):
        Lipsync("preview", device=["cpu"])
    with pytest.raises(EngineUnavailable, match="There is no engine"):
        Lipsync("previw")
    with pytest.raises(EngineUnavailable, match="weights"):
        Lipsync("sadtalker", weights=tmp_path)


def test_cancelling_stops_the_render_and_leaves_no_video(speech: Path, tmp_path: Path) -> None:
    with Lipsync("preview") as engine, pytest.raises(Cancelled):
        engine.render(PORTRAIT, speech, tmp_path / "video.mp4", cancelled=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_imports_no_model_code() -> None:
    """`lipsync --help` and the server's start stay quick."""
    program = "import sys, lipsync_server; print('numpy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["False", "False"]


def test_the_pages_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 5
    assert result.failed == 0

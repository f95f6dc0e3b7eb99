"""The programs of the command line: a render, Ctrl-C, the demo and the benchmark, each in a process of its own."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lipsync_server.card_speeds import read_card_speeds
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from material import make_recording

PORTRAIT = SAMPLES_DIR / "portrait.jpg"
LIPSYNC = [sys.executable, "-P", "-m", "lipsync_server.cli"]


def test_render_writes_a_video_as_long_as_the_sound_and_names_it(tmp_path: Path) -> None:
    audio, output = make_recording(tmp_path, 0.5), tmp_path / "out" / "video.mp4"
    command = [*LIPSYNC, "render", str(PORTRAIT), str(audio), "-o", str(output), "--engine", "preview", "--seed", "7"]
    finished = subprocess.run(
        [*command, "--option", "head_motion=0", "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    outcome = json.loads(finished.stdout)
    video = probe_video(output)
    assert (outcome["engine"], outcome["seed"], outcome["n_frames"]) == ("preview", 7, 13)
    assert (video.n_frames, video.fps, video.sha256) == (13, 25.0, outcome["sha256"])


def test_ctrl_c_ends_a_render_cleanly_and_leaves_no_half_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    output = tmp_path / "video.mp4"
    command = [*LIPSYNC, "render", str(PORTRAIT), str(make_recording(tmp_path, 120)), "-o", str(output)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        [*command, "--engine", "preview"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 60
        while not list(scratch.glob("*/segments/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Error: Stopped." in errors
    assert "Traceback" not in errors
    assert not output.exists()
    assert list(scratch.iterdir()) == []


def test_demo_renders_the_shipped_sample(tmp_path: Path) -> None:
    finished = subprocess.run(
        [*LIPSYNC, "demo", "--engine", "preview"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == "", "a library wrote to the terminal"
    assert probe_video(tmp_path / "demo.mp4").duration_s > 2
    assert "engine: preview" in finished.stdout
    assert "demo.mp4: " in finished.stdout
    assert "seconds of work per second of video" in finished.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["demo.mp4"]


@pytest.mark.parametrize("way", [[], ["--via-http"]])
def test_bench_measures_each_length_and_writes_json(tmp_path: Path, way: list[str]) -> None:
    report = tmp_path / "bench.json"
    command = [*LIPSYNC, "bench", "--engine", "preview", "--durations", "0.4,1", "--price", "0.36", *way]
    command += ["--json", str(report)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(report.read_text())
    assert [run["duration_s"] for run in measured["medians"]] == [0.4, 1.0]
    for run in measured["medians"]:
        assert set(run["stage_s"]) == {"load", "preprocess", "generate", "encode", "check"}
        assert 0 < sum(run["stage_s"].values()) <= run["wall_s"] + 0.1
        assert run["peak_rss_bytes"] > 50_000_000
    assert "lipsync-server" in measured["machine"]["software"]
    assert "CPU:" in finished.stdout
    assert "s per s" in finished.stdout


def test_bench_shares_a_cards_speed_that_reads_back(tmp_path: Path) -> None:
    command = [*LIPSYNC, "bench", "--engine", "preview", "--durations", "0.4,1", "--share"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    (path,) = tmp_path.iterdir()
    assert path.name in finished.stdout
    found = read_card_speeds(path)
    assert found.card and found.versions["lipsync-server"]
    (speed,) = found.speeds
    assert (speed.engine, speed.sound_s, speed.n_runs) == ("preview", 1.0, 1)
    assert 0 < speed.seconds_per_second < 60
    assert str(tmp_path) not in path.read_text() and platform.node() not in path.read_text()

"""The benchmark with random weights, dry: tiny sizes on the CPU."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from lipsync_server.bench.flashhead import rig
from lipsync_server.cli import app
from lipsync_server.engines.flashhead import job
from typer.testing import CliRunner


def _measured(tmp_path: Path, only: str) -> dict[str, dict[str, Any]]:
    out = tmp_path / "bench.json"
    flags = ["--random-weights", "--engine", "flashhead", "--tiny", "--json", str(out), "--only", only]
    result = CliRunner().invoke(
        app, ["bench", *flags, "--scratch", str(tmp_path / "scratch")], env={"LIPSYNC_DEVICE": "cpu"}
    )
    assert result.exit_code == 0, result.output
    report: dict[str, dict[str, Any]] = json.loads(out.read_text())
    assert "failed" not in json.dumps(report)
    assert not list((tmp_path / "scratch").iterdir()), "model files and frames are removed"
    return report


def test_one_command_measures_loading_the_first_frame_and_the_speed_of_each_framing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (job, rig):  # a sixteenth of the pixels
        monkeypatch.setattr(module, "SIDE", 128)
    report = _measured(tmp_path, "lite")
    assert report["machine"]["software"]["torch"] == version("torch")
    lite = report["lite"]
    assert set(lite["parts"]) >= {"forward", "decode", "take_over"}
    for name in ("whole", "square"):
        numbers = lite[name]
        assert 0 < numbers["first_frame_s"] < numbers["whole_s"]
        assert numbers["s_per_s"] == pytest.approx(sum(numbers["windows_s"]) / numbers["video_s"], abs=1e-2)
    assert min(lite["load_s"], report["lite capped"]["s_per_s"]) > 0


def test_a_section_that_does_not_exist_is_refused() -> None:
    result = CliRunner().invoke(
        app, ["bench", "--random-weights", "--engine", "flashhead", "--only", "max"], env={"LIPSYNC_DEVICE": "cpu"}
    )
    assert result.exit_code != 0
    assert "there is no section max" in result.output

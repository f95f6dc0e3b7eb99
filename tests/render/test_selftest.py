"""lipsync selftest: the verdict on weights that work and on random ones, and the report for an issue."""

import json
import zipfile
from pathlib import Path

import pytest
from lipsync_server.check.quality import Finding, Quality
from lipsync_server.cli.app import app
from lipsync_server.cli.selftest import EXIT_BAD
from lipsync_server.random_models import sadtalker
from lipsync_server.selftest import Rendered, lines_of, verdict_of
from typer.testing import CliRunner

GOOD = Quality(score=0.9, mouth_r=0.6, lag_ms=10.0, face_share=1.0)


def report_of(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"report.txt", "report.json", "sheet.jpg", "video.mp4"}
        assert archive.read("sheet.jpg")[:3] == b"\xff\xd8\xff"
        facts: dict[str, object] = json.loads(archive.read("report.json"))
        return facts


def test_the_preview_passes(tmp_path: Path) -> None:
    report = tmp_path / "report.zip"
    ended = CliRunner().invoke(app, ["selftest", "--engine", "preview", "-o", str(report)])
    assert ended.exit_code == 0, ended.output
    assert ended.output.startswith("PASS: ")
    verdict = report_of(report)["verdict"]
    assert isinstance(verdict, dict) and verdict["word"] == "pass"
    assert verdict["likeness"] > 0.9 and verdict["mouth_r"] > 0.8


def test_random_weights_get_the_verdict_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sadtalker.write(tmp_path / "weights" / "sadtalker")
    monkeypatch.setenv("LIPSYNC_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("LIPSYNC_DEVICE", "cpu")
    report = tmp_path / "report.zip"
    ended = CliRunner().invoke(app, ["selftest", "--engine", "sadtalker", "-o", str(report)])
    assert ended.exit_code == EXIT_BAD, ended.output
    assert ended.output.startswith("NOISE: ")
    assert str(tmp_path) not in json.dumps(report_of(report))


@pytest.mark.parametrize(
    ("word", "quality", "likeness"),
    [
        ("pass", GOOD, 0.9),
        ("another face", GOOD, 0.2),
        ("no face", Quality(score=0.5, mouth_r=0.6, face_share=0.8), 0.9),
        ("mouth", Quality(score=0.2, mouth_r=0.1, face_share=1.0), 0.9),
        ("mouth", Quality(score=0.2, mouth_r=0.5, lag_ms=160.0, face_share=1.0), 0.9),
        ("black", Quality(0.0, (Finding("black", 0, 3, "The picture is black.", 0.0),), face_share=0.1), None),
        ("frozen", Quality(0.1, (Finding("frozen", 1, 3, "It stands still.", 0.1),), 0.6, 0.0, face_share=1.0), 0.9),
        ("broken", Quality(0.1, (Finding("flicker", 1, 3, "It flickers.", 0.5),), 0.6, 0.0, face_share=1.0), 0.9),
    ],
)
def test_each_fault_has_a_verdict_of_its_own(word: str, quality: Quality, likeness: float | None) -> None:
    rendered = Rendered("infinitetalk", "fast", b"", b"", quality, 3.0, "NVIDIA H100 80GB HBM3")
    verdict = verdict_of(rendered, likeness)
    assert verdict.word == word
    assert verdict.passed == (word == "pass")
    assert verdict.expected_s is not None
    assert f"expected {verdict.expected_s:g}" in "\n".join(lines_of(rendered, verdict))

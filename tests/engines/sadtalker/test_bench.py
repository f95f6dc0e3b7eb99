"""The benchmark: one command, one JSON, every section on disk as soon as it is known."""

import json
import re
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lipsync_server.bench.record import Numbers, Record
from lipsync_server.bench.sadtalker.command import Bench, Case, Plan
from lipsync_server.bench.sadtalker.rig import Material, Rig
from lipsync_server.bench.sections import chosen
from lipsync_server.bench.tables import with_tables
from lipsync_server.cli import app
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.errors import InvalidInput
from lipsync_server.random_models.sadtalker import TINY
from typer.testing import CliRunner

CPU = torch.device("cpu")
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(CPU, TINY)


def test_one_command_measures_speed_and_memory_without_model_files(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    flags = ["--random-weights", "--engine", "sadtalker", "--tiny", "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", *flags], env={"LIPSYNC_DEVICE": "cpu"})
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["machine"]["software"]["torch"] == version("torch")
    assert not [section for section in report.values() if "failed" in section]
    exact, half = report["speed 256 float32"], report["speed 256 bfloat16"]
    assert min(exact["fps"], half["fps"], exact["cpu_s_per_frame"]) > 0
    assert exact["mean_error_to_float32"] == 0
    assert 0 < half["mean_error_to_float32"] < 0.05
    memory = report["length 256 bfloat16"]
    assert (memory["short"]["n_frames"], memory["long"]["n_frames"]) == (5, 10)
    assert min(memory["short"]["rss_mib"], memory["long"]["rss_mib"]) > 50
    assert set(report["stages 256 float32"]) >= {"mapping", "dense_motion", "decoder", "render", "paste_and_fetch"}


def test_sections_are_chosen_by_words_of_their_names() -> None:
    names = [case.name for case in Plan(capped=True).cases()]
    assert chosen(names, "length") == ["length 256 float16 compiled"]
    assert chosen(names, "512 capped") == ["speed 512 float16 compiled capped", "speed 512 float16 capped"]
    assert chosen(names, "") == names
    with pytest.raises(InvalidInput, match="no section 1024"):
        chosen(names, "1024")


def test_a_gpu_s_plan_holds_every_figure_and_begins_with_compiled_ones() -> None:
    cases = Plan(capped=True).cases()
    speeds = {(c.size, c.compiled, c.capped) for c in cases if c.kind == "speed"}
    assert len(speeds) == 8
    assert [case.name for case in cases[:5]] == [
        "speed 512 float16 compiled",
        "speed 512 float16 compiled capped",
        "speed 256 float16 compiled",
        "length 256 float16 compiled",
        "speed 256 float16 compiled capped",
    ]
    rigs = [case.size for case in cases]
    changes = sum(a != b for a, b in pairwise(rigs))
    assert changes == 2, "every change of size loads a renderer anew"


def divide_by_zero(found: Numbers) -> None:
    found["s"] = 1 / 0


def test_a_section_that_fails_or_comes_too_late_leaves_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    record = Record(path)
    record.section("bad", divide_by_zero)
    assert "ZeroDivisionError" in json.loads(path.read_text())["bad"]["failed"]
    record.section("good", lambda found: found.update(fps=2))
    record.ends_at = 0
    record.section("late", divide_by_zero)
    written = json.loads(path.read_text())
    assert written["good"]["fps"] == 2
    assert "left_out" in written["late"]


def test_every_frame_of_a_track_is_rendered(material: Material) -> None:
    rig = Rig(material, 256, "float32", compiled=False)
    rig.batch_size = 2
    assert list(rig.stream(material.track(0.2))) == [2, 4, 5]


def test_a_renderer_serves_cases_until_another_is_asked_for(material: Material) -> None:
    measured = Bench(material, Plan(compiled=False, n_frames=1))
    measured.measure(Case("speed", 256, "float32"))
    first = measured.rig
    measured.measure(Case("speed", 256, "float32"))
    assert measured.rig is first
    measured.measure(Case("speed", 256, "bfloat16"))
    assert measured.rig is not first


def test_the_reference_rate_is_that_of_the_convolutions(material: Material) -> None:
    measured = Bench(material, Plan(compiled=False, n_frames=1), rates={"float32": 1.203})
    numbers = measured.measure(Case("speed", 256, "float32"))
    assert numbers["convolutions_fps"] == 1.0
    assert numbers["of_convolutions"] == pytest.approx(numbers["fps"], abs=1e-3)


def test_the_documents_tables_are_the_measured_numbers() -> None:
    page = (DOCS / "sadtalker.md").read_text(encoding="utf-8")
    command = "run: python -m lipsync_server.bench.tables docs/sadtalker.md"
    assert with_tables(page, DOCS / "performance") == page, command


def test_the_document_names_every_option_that_restores_the_original_behaviour() -> None:
    page = (DOCS / "sadtalker.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`(\w+)=(\w+)` \|", page))
    plain, original = Options().resolved().model_dump(), Options(reference_behaviour=True).resolved().model_dump()
    changed = {name: str(value).lower() for name, value in original.items() if value != plain[name]}
    assert named == {name: value for name, value in changed.items() if name != "reference_behaviour"}


def test_a_table_is_made_of_a_report_and_names_missing_measurements(tmp_path: Path) -> None:
    speed = {"batch_size": 2, "fps": 61.23, "seconds_per_second": 0.41, "of_floor": 0.48, "peak_gpu_gib": 2.9}
    report = {
        "machine": {"device": "an H100", "torch": "2.11"},
        "speed 512 float16 compiled": {**speed, "first_batch_s": 31.2, "cpu_s_per_frame": 0.02},
        "speed 512 float16 capped": {"failed": "OutOfMemoryError: no"},
        "speed 512 float16 capped, took s": 1.0,
        "length 256 float16, took s": 40.1,
        "length 256 float16": {
            "short": {"video_s": 10, "n_frames": 250, "fps": 219.1, "rss_mib": 3000.0, "peak_gpu_gib": 3.4},
            "long": {"video_s": 300, "n_frames": 7500, "fps": 220.3, "rss_mib": 3001.0, "peak_gpu_gib": 3.4},
        },
    }
    (tmp_path / "a.json").write_text(json.dumps(report))
    blocks = "".join(f"<!-- begin {k} a.json -->\nold\n<!-- end {k} -->\n" for k in ("machine", "speed", "length"))
    page = with_tables(blocks + "<!-- begin speed b.json -->\n<!-- end speed -->", tmp_path)
    assert "old" not in page
    assert "| 512 | float16, compiled | 2 | 61.2 | 0.41 | 48% | 2.9 GiB | 31.2 s | 0.02 |" in page
    assert "memory of a 6 GB card | OutOfMemoryError: no |" in page
    assert "| 256 float16 | 300 s | 7500 | 220 | 3001 MiB | 3.40 GiB |" in page
    assert page.count("Not measured yet.") == 1
    assert with_tables(page, tmp_path) == page
    with pytest.raises(ValueError, match="no table nonsense"):
        with_tables("<!-- begin nonsense a.json -->\n<!-- end nonsense -->", tmp_path)

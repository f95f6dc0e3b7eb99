"""The benchmark: one command, one JSON, every section on disk as soon as it is known."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lipsync_server.bench.sadtalker.command import Bench, Case, Plan, Report
from lipsync_server.bench.sadtalker.rig import Material, Rig
from lipsync_server.bench.sadtalker.tables import with_tables
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.random_models.sadtalker_tiny import TINY

CPU = torch.device("cpu")
DOCS = Path(__file__).parents[3] / "docs"
ABSENT = (
    "pydantic",
    "pydantic_settings",
    "librosa",
    "soundfile",
    "soxr",
    "av",
    "ai_edge_litert",
    "skimage",
    "diffusers",
    "psutil",
)
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # None there makes an import fail
sys.argv = ["bench", *sys.argv[1:]]
runpy.run_module("lipsync_server.bench.sadtalker.command", run_name="__main__")
"""


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(CPU, TINY)


def test_one_command_measures_speed_and_memory_without_the_server_s_packages(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    flags = ["--device", "cpu", "--sizes", "256", "--precisions", "float32", "bfloat16", "--frames", "3", "--stages"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *flags, "--short-s", "0.2", "--long-s", "0.4", "--tiny", "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert not [section for section in report.values() if isinstance(section, dict) and "failed" in section]
    exact, half = report["speed 256 float32"], report["speed 256 bfloat16"]
    assert min(exact["fps"], half["fps"], exact["cpu_s_per_frame"]) > 0
    assert exact["mean_error_to_float32"] == 0
    assert 0 < half["mean_error_to_float32"] < 0.05
    memory = report["length 256 bfloat16"]
    assert (memory["short"]["n_frames"], memory["long"]["n_frames"]) == (5, 10)
    assert min(memory["short"]["rss_mib"], memory["long"]["rss_mib"]) > 50
    assert set(report["stages 256 float32"]) >= {"mapping", "dense_motion", "decoder", "render", "paste_and_fetch"}


def test_a_gpu_s_plan_holds_every_figure_and_begins_with_compiled_ones() -> None:
    cases = Plan(cap_gib=5.0).cases()
    speeds = {(c.size, c.compiled, c.capped) for c in cases if c.what == "speed"}
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


def test_a_section_that_fails_or_comes_too_late_leaves_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = Report(path, budget_s=60)
    report.section("bad", lambda: 1 / 0)
    assert "ZeroDivisionError" in json.loads(path.read_text())["bad"]["failed"]
    report.section("good", lambda: {"fps": 2})
    report.ends_at = 0
    report.section("late", lambda: 1 / 0)
    written = json.loads(path.read_text())
    assert written["good"] == {"fps": 2}
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


def test_the_floor_is_what_convolutions_reach(material: Material) -> None:
    measured = Bench(material, Plan(compiled=False, n_frames=1), rates={"float32": 1.203})
    numbers = measured.measure(Case("speed", 256, "float32"))
    assert numbers["floor_fps"] == 1.0
    assert numbers["of_floor"] == pytest.approx(numbers["fps"], abs=1e-3)


def test_the_documents_tables_are_the_measured_numbers() -> None:
    page = (DOCS / "sadtalker.md").read_text(encoding="utf-8")
    command = "run: python -m lipsync_server.bench.sadtalker.tables docs/sadtalker.md"
    assert with_tables(page, DOCS / "performance") == page, command


def test_the_document_names_every_option_that_takes_the_original_s_side() -> None:
    page = (DOCS / "sadtalker.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`(\w+)=(\w+)` \|", page))
    plain, original = Options().resolved().model_dump(), Options(reference_behaviour=True).resolved().model_dump()
    changed = {name: str(value).lower() for name, value in original.items() if value != plain[name]}
    assert named == {name: value for name, value in changed.items() if name != "reference_behaviour"}


def test_a_table_is_made_of_a_report_and_says_what_was_not_measured(tmp_path: Path) -> None:
    speed = {"batch_size": 2, "fps": 61.23, "seconds_per_second": 0.41, "of_floor": 0.48, "peak_gpu_gib": 2.9}
    report = {
        "machine": {"torch": "2.11"},
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
    blocks = "".join(f"<!-- bench {k} a.json -->\nold\n<!-- bench: end -->\n" for k in ("machine", "speed", "length"))
    page = with_tables(blocks + "<!-- bench speed b.json -->\n<!-- bench: end -->", tmp_path)
    assert "old" not in page
    assert "| 512 | float16, compiled | 2 | 61.2 | 0.41 | 48% | 2.9 GiB | 31.2 s | 0.02 |" in page
    assert "memory of a 6 GB card | OutOfMemoryError: no |" in page
    assert "| 256 float16 | 300 s | 7500 | 220 | 3001 MiB | 3.40 GiB |" in page
    assert page.count("Not measured yet.") == 1
    assert with_tables(page, tmp_path) == page
    with pytest.raises(ValueError, match="no table nonsense"):
        with_tables("<!-- bench nonsense a.json -->\n<!-- bench: end -->", tmp_path)

"""The benchmark's sections spread over several cards: processes that see one card each, and one file of numbers."""

import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lipsync_server.bench.cards import Task, spread, tasks, visible_cards
from lipsync_server.bench.infinitetalk import command as benchmark
from lipsync_server.bench.infinitetalk import two_gpus as bench_two_gpus
from lipsync_server.bench.infinitetalk.bench import TINY, Bench
from lipsync_server.bench.infinitetalk.tables import TABLES
from lipsync_server.bench.record import Numbers, read, write
from lipsync_server.bench.sections import SectionRun
from lipsync_server.bench.tables import with_tables

CPU = torch.device("cpu")
MISSING = {"missing": "it needs two cards"}
ITSELF = (*benchmark.ITSELF, "--tiny")

# This stand-in replaces the benchmark's command. A section's name decides its behaviour, and no torch is needed.
STAND_IN = """
import argparse, json, os, pathlib, subprocess, sys, time
parser = argparse.ArgumentParser()
for flag in ("--only", "--cards", "--json", "--scratch", "--budget"):
    parser.add_argument(flag)
parser.add_argument("--keep-files", action="store_true")
given = parser.parse_args()
assert given.cards == "1"
found = {"machine": {"device": "cuda:0", "gpus": ["H100"], "software": {}}}

def save():
    part = pathlib.Path(given.json + ".part")
    part.write_text(json.dumps(found))
    part.replace(given.json)

for name in given.only.split(","):
    found[name] = {"sees": os.environ["CUDA_VISIBLE_DEVICES"], "scratch": given.scratch, "began": time.time()}
    found[name]["budget"] = given.budget
    save()
    if name in ("dies", "hangs"):
        found[name]["below"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid
        save()
    if name == "dies":
        sys.exit("no more of this")
    if name == "hangs":
        time.sleep(60)
    if name == "waits":
        time.sleep(1)
    found[name] |= {"s": 1, "ended": time.time(), "took_s": 0.1}
    save()
print(f"{given.only} is measured", file=sys.stderr)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return [sys.executable, str(path)]


def _bench(folder: Path) -> Bench:
    scratch = folder / "scratch"
    scratch.mkdir()
    return Bench(TINY, CPU, scratch, folder / "bench.json")


def _each(*names: str) -> list[Task]:
    return [Task((name,), 1) for name in names]


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def test_the_longest_go_first_and_the_model_files_are_written_once() -> None:
    queue = tasks(benchmark.SECTIONS)
    assert [task.sections for task in queue[:3]] == [("two_gpus",), ("soak", "http"), ("quality_uncached",)]
    assert queue[-2].sections == ("kernels",) or queue[-1].sections == ("kernels",)
    lengths = [task.expected_s for task in queue if task.n_cards == 1]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(name for task in queue for name in task.sections) == sorted(benchmark.SECTIONS)


def test_four_cards_are_done_within_nine_minutes() -> None:
    starting_s = 7
    free = [0.0] * 4
    for task in tasks(benchmark.SECTIONS):
        free.sort()
        free[: task.n_cards] = [free[task.n_cards - 1] + starting_s + task.expected_s] * task.n_cards
    assert max(free) < 9 * 60


def test_one_card_runs_one_task_after_the_other(tmp_path: Path, command: list[str]) -> None:
    bench = _bench(tmp_path)
    spread(bench.record, bench.scratch, _each("b", "a", "c"), ["7"], command)
    found = json.loads((tmp_path / "bench.json").read_text())
    times = [found[name][key] for name in "bac" for key in ("began", "ended")]
    assert times == sorted(times)
    assert [found[name]["sees"] for name in "bac"] == ["7"] * 3


def test_every_process_is_told_the_seconds_that_are_left_when_it_starts(tmp_path: Path, command: list[str]) -> None:
    bench = _bench(tmp_path)
    bench.record.ends_at = time.monotonic() + 1000.5
    spread(bench.record, bench.scratch, _each("waits", "a"), ["0"], command)
    left_s = [int(bench.numbers[name]["budget"]) for name in ("waits", "a")]
    assert left_s[1] < left_s[0] <= 1001


def test_two_cards_fill_one_file(tmp_path: Path, command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "bench.json", {"machine": {"device": "cpu"}, "earlier": {"s": 3}, "a": {"failed": "then"}})
    bench = _bench(tmp_path)
    both = Task(("on", "both"), 9, n_cards=2)
    spread(bench.record, bench.scratch, [both, *_each("waits", "a")], ["5", "GPU-1f"], command)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["machine"] == {"cards": 2, "device": "cuda:0", "gpus": ["H100"], "software": {}}
    assert found["earlier"] == {"s": 3}
    assert (found["both"]["sees"], found["both"]["card"]) == ("5,GPU-1f", [0, 1])
    assert (found["waits"]["sees"], found["waits"]["card"]) == ("5", 0)
    assert (found["a"]["sees"], found["a"]["card"]) == ("GPU-1f", 1)
    assert "failed" not in json.dumps(found)
    assert found["a"]["began"] < found["waits"]["ended"]
    assert len({found[name]["scratch"] for name in ("both", "waits", "a")}) == 3
    assert not list(bench.scratch.iterdir())
    assert "card 1: a is measured\n" in capfd.readouterr().err


def test_a_process_that_dies_is_reported_and_the_others_continue(tmp_path: Path, command: list[str]) -> None:
    bench = _bench(tmp_path)
    spread(bench.record, bench.scratch, [Task(("fine", "dies", "after"), 2), *_each("other")], ["0", "1"], command)
    numbers = {name: dict(found) for name, found in bench.numbers.items() if isinstance(found, dict)}
    assert numbers["dies"]["sees"] == "0"
    assert not _runs(numbers["dies"]["below"])
    for name in ("dies", "after"):
        assert numbers[name]["failed"] == "its process ended with status 1; its last words: no more of this"
    assert all("failed" not in numbers[name] for name in ("fine", "other"))


def test_a_command_that_does_not_exist_is_the_reason_of_every_section(tmp_path: Path) -> None:
    bench = _bench(tmp_path)
    spread(bench.record, bench.scratch, _each("a", "b"), ["0", "1"], [sys.executable, "-c", "import no_such_module"])
    for name in "ab":
        assert "No module named 'no_such_module'" in json.dumps(bench.numbers[name])


def test_a_run_that_is_stopped_keeps_its_numbers_and_leaves_no_process(tmp_path: Path, command: list[str]) -> None:
    path, scratch = tmp_path / "bench.json", tmp_path / "scratch"
    scratch.mkdir()
    program = f"""
import pathlib
from lipsync_server.bench.cards import Task, spread
from lipsync_server.bench.record import Record
queue = [Task(("a", "hangs"), 1), Task(("b",), 1), Task(("never",), 1, 2)]
record = Record(pathlib.Path({str(path)!r}))
spread(record, pathlib.Path({str(scratch)!r}), queue, ["0", "1"], {command!r})
"""
    run = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    # Section b runs on the other card, at the same time as a and hangs.
    while not ("below" in (seen := read(path)).get("hangs", {}) and "s" in seen.get("b", {})):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    # The first section's numbers were merged while the second section was still running.
    assert "took_s" not in seen["hangs"]
    run.terminate()
    assert run.wait(30) == 128 + 15
    numbers = read(path)
    assert numbers["hangs"]["failed"] == "the run was stopped before this was done"
    assert numbers["a"]["s"] == numbers["b"]["s"] == 1
    assert "never" not in numbers
    assert not _runs(numbers["hangs"]["below"])
    assert not list(scratch.iterdir())


def test_the_command_spreads_its_sections_over_the_cards_that_it_sees(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    path, scratch = tmp_path / "bench.json", tmp_path / "scratch"
    asked = SectionRun("cuda", scratch, "soak,int8,loading", path, cards=2, keep_files=True)
    benchmark.measure(asked, itself=command)
    found = read(path)
    assert list(found) == ["machine", "soak", "int8", "loading"]
    assert {found[name]["sees"] for name in ("soak", "int8", "loading")} == {"0", "1"}
    # The files that --keep preserves lie where a later run on one card looks for them.
    assert found["soak"]["scratch"] == str(scratch)


def test_real_sections_land_in_one_file(tmp_path: Path) -> None:
    bench = _bench(tmp_path)
    wanted = {name: benchmark.SECTIONS[name] for name in ("kernels", "loading")}
    spread(bench.record, bench.scratch, tasks(wanted), ["0", "1"], ITSELF)
    assert [bench.numbers[name]["card"] for name in ("loading", "kernels")] == [0, 1]
    assert bench.numbers["loading"]["s"] > 0
    assert bench.numbers["kernels"]["sdpa"]["s"] > 0
    assert bench.numbers["machine"]["software"]["torch"] == version("torch")
    assert "failed" not in json.dumps(bench.numbers)


def test_cards_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-1f,-1")
    assert visible_cards() == ["3", "GPU-1f"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_cards() == ["0", "1"]


def test_two_processes_measure_what_two_cards_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bench = _bench(tmp_path)
    bench.section("two_gpus", bench_two_gpus.two_gpus)
    assert "two cards" in bench.numbers["two_gpus"]["missing"]
    bench.section("two_gpus", bench_two_gpus.in_two_processes)
    assert not list(bench.scratch.iterdir())
    rows = TABLES["two_gpus"](bench.numbers, {}).splitlines()
    assert [len(row.split("|")) for row in rows] == [5] * 8
    _check_alone_and_together(bench.numbers["two_gpus"])


def _check_alone_and_together(numbers: Numbers) -> None:
    """Both ways have a forward and the parts of a window, and compute nearly the same."""
    for mode in ("alone", "together"):
        assert numbers[mode]["forward_s"] > 0
        assert set(numbers[mode]["window_s"]) == {"condition", "denoise", "decode", "transfer", "all"}
    assert "2 processes" in numbers["together"]["attention"]
    assert "processes" not in numbers["alone"]["attention"]
    assert numbers["exchange_s"] > 0
    assert numbers["machine"]["software"]["torch"]
    assert all(0 <= difference < 1e-2 for difference in numbers["relative_l2"].values())


def test_a_failure_of_two_processes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_two_gpus, "_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    bench = _bench(tmp_path)
    bench.section("two_gpus", bench_two_gpus.in_two_processes)
    assert "status 3" in bench.numbers["two_gpus"]["failed"]


def test_the_tables_mention_other_cards_at_work(tmp_path: Path) -> None:
    environment = {"python": "3", "torch": "2", "device": "cuda:0", "gpu": "H100"}
    write(tmp_path / "reference-h100.json", {})
    write(tmp_path / "alone.json", {"environment": environment})
    write(
        tmp_path / "four.json", {"environment": environment | {"cards": 4}, "forward": {"card": 2}, "two_gpus": MISSING}
    )
    page = "<!-- files: alone.json four.json -->\n<!-- begin files -->\n<!-- end files -->"
    alone, four = with_tables(page, tmp_path).splitlines()[4:6]
    assert "| H100 |" in alone
    assert "| H100; 4 of one host were at work at once" in four and four.endswith("| forward |")


def test_bf16_and_8_bit_forms_stand_under_their_names() -> None:
    numbers = {"forward": {"bf16_fused": {"s": 2.91, "first_s": 3.0}, "fp8_fused_bf16": {"s": 2.4, "first_s": 3.0}}}
    rows = TABLES["forward"](numbers, {"forward": {}}).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["2.91", "2.40"]
    kernels = [
        {"kernel": kernel, "s": 1.0, "calls": 40} for kernel in ("attention_bf16", "_norm_fp8", "_norm", "_tile_int8")
    ]
    profiled: dict[str, Any] = {"forward": {"profile_bf16": {"kernels": kernels, "busy_s": 4.5, "wall_s": 5.0}}}
    found = dict(row.strip("| ").split(" | ")[:2] for row in TABLES["profile_bf16"](profiled, {}).splitlines())
    assert found["our bf16 self-attention"] == "1.000"
    assert found["residual + norm + modulation + rounding"] == "2.000"
    assert found["the rest"].startswith("0.500")


def test_a_small_card_has_a_row_for_each_bound() -> None:
    def capped(blocks: int) -> Numbers:
        return {"plan": f"{blocks} of 40 blocks resident", "windows": [{"all": 9.0, "decode": 1.0}], "s_per_s": 3.1}

    numbers = {"capped": capped(31) | {"in_22_gb": capped(26)}, "capped_int8": capped(30), "windows": {}}
    rows = TABLES["memory"](numbers, {}).splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| 480p", "24 GB", "31 of 40"],
        ["| 480p", "22 GB", "26 of 40"],
        ["| 480p, int8", "24 GB", "30 of 40"],
    ]

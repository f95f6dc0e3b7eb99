"""The benchmark of random weights, dry: every section at tiny sizes on the CPU."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lipsync_server.bench import tables as bench_tables
from lipsync_server.bench.infinitetalk import command as benchmark
from lipsync_server.bench.infinitetalk.attention_design import KINDS
from lipsync_server.bench.infinitetalk.attention_table import kernels
from lipsync_server.bench.infinitetalk.bench import FULL, TINY, Bench
from lipsync_server.bench.infinitetalk.http import http
from lipsync_server.bench.infinitetalk.tables import TABLES
from lipsync_server.bench.machine import HEADER, Machine
from lipsync_server.bench.record import Numbers
from lipsync_server.bench.sections import SectionRun
from lipsync_server.cli import app
from lipsync_server.engines.infinitetalk.loading import memory
from lipsync_server.engines.infinitetalk.video.sizes import BUCKETS
from lipsync_server.models.kernels import attention
from typer.testing import CliRunner

CPU = torch.device("cpu")
# The section http starts a server, which has its own test.
SECTIONS = [name for name in benchmark.SECTIONS if name != "http"]
WINDOWS: tuple[str, ...] = (
    *("windows.fast", "windows.balanced", "capped", "quality", "quality_uncached", "hd.capped", "hd.resident"),
    *("two_people", "int8.fast", "capped.in_22_gb", "flashtalk.4_steps", "flashtalk.2_steps"),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The numbers of all sections, measured once."""
    folder = tmp_path_factory.mktemp("bench")
    made = Bench(TINY, CPU, folder, folder / "bench.json", repeats=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUCKETS, "480p", {0.5: (64, 128), 1.0: (64, 64)})
        made.record.section(HEADER, lambda found: found.update(Machine.here("cpu").numbers))
        for name in SECTIONS:
            made.section(name, benchmark.SECTIONS[name].measure)
    yield made
    made.remove_model_files()
    assert [path.name for path in folder.iterdir()] == ["bench.json"]


def _part(numbers: Numbers, path: str) -> Numbers:
    for key in path.split("."):
        numbers = numbers[key]
    return numbers


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_measures_without_a_gpu(bench: Bench, name: str) -> None:
    found = bench.numbers[name]
    assert "failed" not in json.dumps(found)
    assert found["took_s"] >= 0


@pytest.mark.parametrize("path", WINDOWS)
def test_a_window_s_parts_are_what_it_took(bench: Bench, path: str) -> None:
    found = _part(bench.numbers, path)
    last = found["windows"][-1]
    parts = {"condition", "denoise", "decode", "transfer", "encoder_wait", "take_over"}
    assert set(last) == parts | {"all"}
    assert sum(last[part] for part in parts) == pytest.approx(last["all"], abs=0.1)
    assert found["new_video_s"] == 8 / 25
    assert found["s_per_s"] == pytest.approx(last["all"] / found["new_video_s"], abs=1e-3)


def test_the_quality_window_counts_the_forwards_that_the_step_cache_computed(bench: Bench) -> None:
    found = bench.numbers["quality"]
    assert (found["forwards"], found["forwards_computed"]) == (120, 72)


def test_within_22_gb_fewer_blocks_of_the_14b_stay_than_within_24() -> None:
    besides = 3 * 2**29  # CUDA's share, and the models beside the transformer

    def resident(n_bytes: int) -> int:
        height, width = FULL.picture
        plan = memory.plan(
            FULL.models.transformer, quant="fp8", pixels=height * width, passes=1, compiled=True,
            free_bytes=n_bytes - besides,
        )  # fmt: skip
        return plan.resident_blocks

    assert 20 < resident(22 * 10**9) < resident(24 * 10**9) < 40


def test_the_capped_windows_are_measured_within_22_gb_too(bench: Bench) -> None:
    for name in ("capped", "capped_int8"):
        found = _part(bench.numbers, f"{name}.in_22_gb")
        assert len(found["windows"]) == 2
        assert found["plan"]


def test_the_soak_gives_memory_early_and_at_the_end(bench: Bench) -> None:
    found = bench.numbers["soak"]
    assert found["jobs"] == TINY.soak_jobs
    assert found["after_2"]["rss_gib"] > 0
    assert found[f"after_{TINY.soak_jobs}"]["rss_gib"] > 0


def test_a_missing_kernel_is_listed_with_the_reason(bench: Bench) -> None:
    found = bench.numbers["kernels"]
    assert found["sdpa"]["s"] > 0
    for name in ("xformers", "sage", "comfy"):
        says = found[name].get("missing", "")
        assert "errors" in found[name] or "Error: " in says or says == "it needs an NVIDIA GPU"


def test_every_kernel_is_compared_on_the_six_kinds_of_input(bench: Bench) -> None:
    found = bench.numbers["kernels"]
    assert set(found) >= {*attention.KERNELS, "comfy"}
    for name in ("sdpa", "flash"):
        assert set(found[name]["errors"]) == set(found[name]["s_by_input"]) == set(KINDS)
        assert all(0 < error < 0.01 for error in found[name]["errors"].values())
    text = TABLES["kernels"](bench.numbers, {})
    assert all(kind in text.splitlines()[0] for kind in KINDS)


def test_a_kernel_that_fails_on_one_input_leaves_the_others_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if v.abs().max() > 30:
            raise RuntimeError("a value is too large")
        return attention.sdpa(q, k, v)

    monkeypatch.setitem(attention.KERNELS, "flash", fails)
    found: Numbers = {}
    kernels(bench, found)
    assert found["flash"]["failed"].endswith("RuntimeError: a value is too large")
    assert "normal" in found["flash"]["errors"]
    assert "outlier tokens" not in found["flash"]["errors"]
    assert len(found["sdpa"]["errors"]) == len(KINDS)
    assert "- flash: failed: " in TABLES["kernels"]({"kernels": found}, {})


def test_files_of_earlier_runs_still_give_a_table_of_kernels() -> None:
    old = {"kernels": {"fp8": {"s": 0.025, "error": 0.045}, "math": {"missing": "too slow"}, "took_s": 5.0}}
    text = TABLES["kernels"](old, {})
    assert "| 25.0 (925 TFLOP/s) | 0.0450 |" in text
    assert text.endswith("- math: too slow")


def test_http_measures_the_real_server(bench: Bench) -> None:
    bench.section("http", http)
    found = bench.numbers["http"]
    assert "failed" not in found
    assert found["ready_s"] > 0
    measured = found["0.2_s"]
    assert measured["s_per_s"] == pytest.approx(measured["wall_s"] / 0.2, rel=0.05)
    assert measured["peak_rss_gib"] > 0.1


def test_every_table_can_be_made_from_the_file_of_a_run(bench: Bench, tmp_path: Path) -> None:
    docs = Path(__file__).parents[3] / "docs" / "performance"
    assert bench.record.path is not None
    for file in (docs / "reference-h100.json", bench.record.path):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tables = [*TABLES, "files"]
    blocks = "\n".join(f"<!-- begin {name} -->\n<!-- end {name} -->" for name in tables)
    made = bench_tables.with_tables(f"<!-- files: bench.json -->\n{blocks}", tmp_path)
    shown = dict(zip(tables, made.split("<!-- end "), strict=False))
    # `profile` and `older_cards` need a GPU, `two_gpus` needs two. `http` has its own test, which may run later.
    empty = [name for name, text in shown.items() if "ot measured yet" in text]
    assert set(empty) <= {"profile", "profile_bf16", "older_cards", "http", "two_gpus"}
    assert bench_tables.with_tables(made, tmp_path) == made
    for text in ("two people", "720p", "int8 weights", "with TeaCache"):
        assert text in shown["windows"]
    assert "derived" not in shown["windows"]


def test_no_section_starts_after_the_budget(tmp_path: Path) -> None:
    asked = SectionRun(
        "cpu", tmp_path / "scratch", only="loading,soak", json_path=tmp_path / "b.json", tiny=True, budget_s=0
    )
    benchmark.measure(asked)
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["loading"] == found["soak"] == {"left_out": "the time was used up"}


def test_a_failing_section_gives_the_reason_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    def partly(bench: Bench, found: Numbers) -> None:
        found["first"] = 1
        raise ValueError("no more of this")

    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"earlier": {"s": 3}}))
    bench = Bench(TINY, CPU, tmp_path, path)
    bench.section("partly", partly)
    bench.section("whole", lambda bench, found: found.update(s=2))
    stored = json.loads(path.read_text())
    assert stored["earlier"] == {"s": 3}
    assert (stored["partly"]["first"], stored["partly"]["failed"]) == (1, "ValueError: no more of this")
    assert stored["whole"]["s"] == 2


def test_a_section_that_does_not_exist_is_refused_with_those_that_do() -> None:
    result = CliRunner().invoke(app, ["bench", "--random-weights", "--tiny", "--only", "windoes"])
    assert result.exit_code == 2
    assert "no section windoes" in " ".join(result.output.split()) and "windows" in result.output


def test_the_command_runs_the_sections_asked_for_and_leaves_no_files(tmp_path: Path) -> None:
    path, scratch = tmp_path / "result.json", tmp_path / "scratch"
    flags = ["--random-weights", "--tiny", "--cards", "1", "--only", "loading,quality"]
    flags += ["--json", str(path), "--scratch", str(scratch)]
    result = CliRunner().invoke(app, ["bench", *flags])
    assert result.exit_code == 0, result.output
    stored = json.loads(path.read_text())
    assert list(stored) == ["machine", "loading", "quality"]
    assert "failed" not in json.dumps(stored)
    assert not list(scratch.iterdir())

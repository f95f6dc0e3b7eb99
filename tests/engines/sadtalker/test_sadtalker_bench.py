"""The benchmark runs where only torch and the plain numerical packages are."""

import json
import subprocess
import sys
from pathlib import Path

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
)
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # None there makes an import fail
sys.argv = ["bench", *sys.argv[1:]]
runpy.run_module("lipsync_server.engines.sadtalker.bench", run_name="__main__")
"""


def test_the_benchmark_measures_without_the_server_s_packages(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    flags = ["--device", "cpu", "--sizes", "256", "--precisions", "float32", "bfloat16", "--batch-sizes", "2"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *flags, "--frames", "3", "--tiny", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    assert [result["precision"] for result in report["results"]] == ["float32", "bfloat16"]
    for result in report["results"]:
        assert result["fps"] > 0
        assert set(result["stages_ms"]) >= {"mapping", "dense_motion", "decoder", "render", "paste_and_fetch"}
    assert report["results"][0]["mean_error_to_float32"] == 0
    assert 0 < report["results"][1]["mean_error_to_float32"] < 0.05

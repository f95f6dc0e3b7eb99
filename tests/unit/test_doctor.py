"""`lipsync doctor` names the remedies, without torch and without a GPU."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lipsync_server.doctor import facts as facts_module
from lipsync_server.doctor.checks import (
    check_card,
    check_compiler,
    check_cuda,
    check_disk,
    check_driver,
    check_memory,
    check_port,
    check_torch,
    check_weights,
    examine,
)
from lipsync_server.doctor.facts import CudaStart, Facts, TorchBuild, nvidia_cards, read_facts, version_of
from lipsync_server.doctor.finding import Finding
from lipsync_server.doctor.first_video import finding, first_video
from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.host_memory import HostMemory
from lipsync_server.nvidia_driver import driver_version
from lipsync_server.settings import Settings
from lipsync_server.weights.line_speed import measure_mbps
from lipsync_server.weights.manifest import load_manifest
from model_hub import serve_hub

GIB = 2**30
CARD = Gpu(0, "GPU-1", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, (8, 9))
GOOD = Facts(
    gpus=(CARD,),
    n_nvidia_cards=1,
    driver=(535, 183, 1),
    cuda=CudaStart(0, (12, 2)),
    torch=TorchBuild("2.10.0", (12, 8)),
    memory=HostMemory(64 * GIB, 60 * GIB, is_container_limit=False),
    n_cpus=8,
    in_container=False,
    has_compiler=True,
)
BARE = replace(GOOD, gpus=(), n_nvidia_cards=0, driver=(), cuda=CudaStart(None, ()), torch=None, has_compiler=False)


def test_a_good_machine_has_no_problem(tmp_path: Path) -> None:
    report = examine(Settings(data_dir=tmp_path, weights_dir=tmp_path / "weights", port=0), facts=GOOD)
    assert report.engine == "preview"
    assert [found.line for found in report.problems if "disk" not in found.name] == []


def test_a_machine_without_a_card_renders_the_preview_and_has_no_problem(tmp_path: Path) -> None:
    report = examine(Settings(data_dir=tmp_path, weights_dir=tmp_path / "weights", port=0), facts=BARE)
    assert (report.engine, report.problems) == ("preview", ())


@pytest.mark.parametrize(
    ("check", "facts", "detail", "advice"),
    [
        (check_card, replace(BARE, n_nvidia_cards=1), "no driver answers", "Install NVIDIA's driver"),
        (check_card, replace(BARE, n_nvidia_cards=1, in_container=True), "no driver", "--gpus all"),
        (check_card, replace(GOOD, gpus=(), in_container=True), "sees no card", "--gpus all"),
        (check_driver, replace(GOOD, torch=TorchBuild("2.13.0", (13, 0))), "CUDA 13.0 needs 580", "Install driver 580"),
        (check_driver, replace(GOOD, driver=(470, 57, 2)), "NVIDIA 470.57.02", "Install driver 525"),
        (check_driver, replace(GOOD, gpus=(replace(CARD, compute_capability=(12, 0)),)), "needs 570", "driver 570"),
        (check_cuda, replace(GOOD, cuda=CudaStart(None, ())), "libcuda.so.1 is not here", "libcuda1"),
        (check_cuda, replace(GOOD, cuda=CudaStart(None, ()), in_container=True), "libcuda", "compute,utility,video"),
        (check_cuda, replace(GOOD, cuda=CudaStart(804, (12, 2))), "error 804", "cuda-compat"),
        (check_cuda, replace(GOOD, cuda=CudaStart(46, (12, 2))), "error 46", "Restart the machine"),
        (check_torch, replace(GOOD, torch=None), "not installed", "pip install -c constraints.txt -e '.[gpu]'"),
        (check_torch, replace(GOOD, torch=TorchBuild("2.13.0+cpu", ())), "built for the CPU", ".[gpu]"),
        (check_compiler, replace(GOOD, has_compiler=False), "Triton needs", "apt-get install gcc"),
        (check_memory, replace(GOOD, memory=HostMemory(8 * GIB, GIB, True)), "container's limit", "raise the"),
        (check_memory, replace(GOOD, memory=HostMemory(8 * GIB, GIB, False)), "1.0 of 8.0 GiB", "a machine with more"),
    ],
)  # fmt: skip
def test_every_problem_is_a_sentence_with_a_remedy(
    check: Callable[[Facts], Finding], facts: Facts, detail: str, advice: str
) -> None:
    found = check(facts)
    assert found.state == "problem"
    assert detail in found.detail
    assert advice in found.advice
    assert found.advice.endswith(".")


@pytest.mark.parametrize(
    ("check", "facts", "advice"),
    [
        (check_card, replace(GOOD, gpus=(replace(CARD, compute_capability=(7, 5)),)), "before Ampere"),
        (check_card, replace(GOOD, gpus=(replace(CARD, free_bytes=2 * GIB),)), "Another program holds memory"),
        (check_memory, replace(GOOD, memory=HostMemory(16 * GIB, 15 * GIB, False)), "prefer a host with 32 GB"),
    ],
)
def test_a_doubt_is_a_note_and_no_problem(check: Callable[[Facts], Finding], facts: Facts, advice: str) -> None:
    found = check(facts)
    assert (found.state, advice in found.advice) == ("note", True)


def test_a_port_in_use_and_a_full_or_closed_disk_are_problems(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = check_port("127.0.0.1", port, "port health")
        assert (found.state, "--port-health" in found.advice) == ("problem", True)
    assert check_port("127.0.0.1", port, "port").state == "ok"
    assert check_port("203.0.113.7", port, "port").state == "problem"
    assert check_disk(tmp_path / "not" / "yet", "weights disk", 2**60).state == "problem"
    assert check_disk(tmp_path / "not" / "yet", "weights disk", 1).state == "ok"


def test_missing_weights_come_with_the_command_that_downloads_them(tmp_path: Path) -> None:
    manifest = load_manifest()
    found = {one.name: one for one in check_weights(Settings(weights_dir=tmp_path), manifest)}
    assert found["weights of infinitetalk"].advice.endswith("lipsync weights pull infinitetalk-int8-fast.")
    assert "lacks 26.3 GB" in found["weights of infinitetalk"].detail
    for file in manifest.profile_files("sadtalker-256"):
        path = manifest.local_path(file, tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as empty:
            empty.truncate(file.size_bytes)
    found = {one.name: one for one in check_weights(Settings(weights_dir=tmp_path), manifest)}
    assert found["weights of sadtalker"].state == "ok"
    assert "sadtalker-256" in found["weights of sadtalker"].detail


def test_the_first_video_is_computed_from_bytes_line_and_card(tmp_path: Path) -> None:
    settings, manifest = Settings(weights_dir=tmp_path, preset="fast"), load_manifest()
    estimate = first_video(settings, manifest, GOOD, 500)
    assert estimate is not None
    assert estimate.profile == "infinitetalk-int8-fast"
    assert estimate.download_s == pytest.approx(26.34e9 * 8 / 500e6, rel=0.01)
    assert estimate.work_s is not None
    sentence = finding(estimate, 500, "stated").detail
    assert "7 min for 26.3 GB at 500 Mbit/s (stated)" in sentence
    assert "computed" in sentence
    assert "needs no download" in finding(first_video(settings, manifest, BARE, 500), 500, "stated").detail


async def test_the_line_is_measured_at_the_model_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = load_manifest()
    largest = max(manifest.profile_files("sadtalker-256"), key=lambda file: file.size_bytes)
    async with serve_hub({largest.path: bytes(3_000_000)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert await measure_mbps(manifest, "sadtalker-256") > 1
    with pytest.raises(Exception, match=r"cannot be read: .*--mbps"):
        await measure_mbps(manifest, "sadtalker-256")


def test_driver_and_cards_are_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    line = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12.2\n"
    )
    (tmp_path / "driver/nvidia/version").write_text(line)
    assert driver_version(tmp_path) == "535.183.01"
    assert version_of(driver_version(tmp_path)) == (535, 183, 1)
    open_module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    (tmp_path / "driver/nvidia/version").write_text(open_module)
    assert driver_version(tmp_path) == "580.65.06"
    for name, vendor, kind in (("0", "0x10de", "0x030000"), ("1", "0x10de", "0x040300"), ("2", "0x8086", "0x030000")):
        device = tmp_path / "bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert nvidia_cards(tmp_path) == 1


def test_the_driver_is_read_from_nvidia_smi_where_the_kernel_does_not_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.124.06\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert driver_version(tmp_path) == "570.124.06"


def test_torchs_build_is_read_without_importing_torch(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "torch/version.py").write_text("__version__ = '2.10.0+cu128'\ncuda: str | None = '12.8'\n")
    code = (
        "from lipsync_server.doctor.facts import torch_build; build = torch_build(); print(build.version, build.cuda)"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert ended.stdout == "2.10.0+cu128 (12, 8)\n", ended.stderr


def test_a_container_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not facts_module.in_container(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert facts_module.in_container(tmp_path)


def test_the_facts_of_this_machine_can_be_read() -> None:
    found = read_facts()
    assert found.n_cpus >= 1
    assert (found.torch is None) == (facts_module.torch_build() is None)


def doctor(tmp_path: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"LIPSYNC_DATA_DIR": str(tmp_path), "LIPSYNC_WEIGHTS_DIR": str(tmp_path)} | variables
    command = [sys.executable, "-m", "lipsync_server.cli", "doctor", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)


def test_the_command_fails_only_where_nothing_can_render(tmp_path: Path) -> None:
    ended = doctor(tmp_path, "--json", "--mbps", "500")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["engine"] == "preview"
    assert {"card", "host memory", "weights disk", "port", "rendering", "first video"} <= {
        found["name"] for found in said["findings"]
    }
    ended = doctor(tmp_path, "--mbps", "500", LIPSYNC_ENGINE="infinitetalk")
    assert ended.returncode == 1
    assert "No engine can render here." in ended.stdout

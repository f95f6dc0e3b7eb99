"""The hardware of this machine: GPUs with their memory, CPU cores that may be used, the CPU's name.

GPUs are read from NVML, the driver's library (package nvidia-ml-py), or else from the program nvidia-smi. If both are
missing, there is no GPU. All facts are read once, so the free memory is the free memory at the first call. Knows no
engines and never imports torch, so the server process can use this module.
"""

import csv
import importlib
import io
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_MIB = 1024 * 1024
_SMI_FIELDS = "index,uuid,name,memory.total,memory.free,compute_cap"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. index: as torch counts (`cuda:index`). total_bytes, free_bytes: its memory."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use under CUDA_VISIBLE_DEVICES, in torch's order."""
    found = _from_nvml()
    if found is None:
        found = _from_nvidia_smi()
    return _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def usable_cpus() -> int:
    """CPU cores that this process may use: its affinity, cut by a container's quota; at least one."""
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(n_cpus, int(quota + 0.5)) if quota else n_cpus)


@cache
def cpu_name() -> str:
    """The CPU's model name, for the header of a benchmark."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _from_nvml() -> list[Gpu] | None:
    """The GPUs that NVML lists; None if NVML is missing."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # pynvml has many own error classes, and the module itself may be missing
        return None
    try:
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            name, uuid = (
                value.decode() if isinstance(value, bytes) else str(value)
                for value in (nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle))
            )
            found.append(Gpu(index, uuid, name, int(memory.total), int(memory.free), (int(major), int(minor))))
        return found
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _from_nvidia_smi() -> list[Gpu]:
    """The GPUs that the driver's program nvidia-smi lists; [] if it is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return _parse_nvidia_smi(listing)


def _parse_nvidia_smi(listing: str) -> list[Gpu]:
    """GPUs from lines of _SMI_FIELDS, memory in MiB. A line of another form (a GPU in error) is skipped."""
    found = []
    for row in csv.reader(io.StringIO(listing), skipinitialspace=True):
        try:
            index, uuid, name, total, free, capability = row
            major, minor = capability.split(".")
            found.append(
                Gpu(int(index), uuid, name, int(total) * _MIB, int(free) * _MIB, (int(major), int(minor))),
            )
        except ValueError:
            continue
    return found


def _visible(found: list[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show for this value of CUDA_VISIBLE_DEVICES, in its order.

    visible: indices or uuids, separated by commas; CUDA stops at the first one that does not exist. None shows all.
    """
    if visible is None:
        return tuple(found)
    chosen: list[Gpu] = []
    for part in (part.strip() for part in visible.split(",")):
        match = [gpu for gpu in found if part and (str(gpu.index) == part or gpu.uuid.startswith(part))]
        if len(match) != 1:
            break
        chosen.append(match[0])
    return tuple(
        Gpu(index, gpu.uuid, gpu.name, gpu.total_bytes, gpu.free_bytes, gpu.compute_capability)
        for index, gpu in enumerate(chosen)
    )


def _cgroup_quota(root: Path) -> float | None:
    """CPU cores that the container's quota allows (cgroup v2, then v1); None without a quota."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = float((root / "cpu/cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / float((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None

"""Reads the version of NVIDIA's driver, without torch and without starting CUDA.

The kernel module states its version in a file. Where that file is missing, as under WSL, the driver's program
nvidia-smi prints the version.
"""

import re
import shutil
import subprocess
from pathlib import Path

_TIMEOUT_S = 20


def driver_version(proc: Path = Path("/proc")) -> str:
    """The version, for example "535.183.01"; "" without a driver."""
    try:
        lines = (proc / "driver/nvidia/version").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"
        if "NVRM" in line and (found := re.search(r"\b\d{3,}(\.\d+)+\b", line)):
            return found[0]
    if (program := shutil.which("nvidia-smi")) is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.strip().partition("\n")[0]

"""This machine's card for the choices of choice.py: its name, its driver, a clock on it, and the error of a result.

Knows torch and NVIDIA's driver. Does not know the ways of any computation.
"""

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.gpu_errors import gpu_ran_out
from lipsync_server.models.kernels import nvrtc
from lipsync_server.models.kernels.choice import Card, Chooser
from lipsync_server.nvidia_driver import driver_version
from lipsync_server.version import __version__

_WARM_UP_RUNS, _TIMED_RUNS = 2, 4


def chooser_for(
    device: torch.device,
    *,
    folder: Path | None = None,
    fixed: Mapping[str, str] | None = None,
    agreed: Callable[[str], str] = lambda way: way,
) -> Chooser:
    """A Chooser for `device`, with the arguments of Chooser."""
    clock = partial(milliseconds, device=device)
    return Chooser(card_of(device), clock, folder, fixed or {}, agreed, gpu_ran_out)


def card_of(device: torch.device) -> Card:
    """The card, the driver and the versions of the software that computes on it."""
    versions = f"lipsync-server {__version__}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    for package in ("triton", "xformers", "flash-attn", "sageattention"):
        try:
            versions += f", {package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    if device.type != "cuda":
        return Card(device.type, versions=versions)
    return Card(torch.cuda.get_device_name(device), driver_version() or _cuda_of_driver(), versions)


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """The shortest of four runs, after two runs to warm up. Other work on the card only adds time."""
    taken: list[float] = []
    for _ in range(_WARM_UP_RUNS + _TIMED_RUNS):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record(torch.cuda.current_stream(device))
            run()
            end.record(torch.cuda.current_stream(device))
            end.synchronize()
            taken.append(begin.elapsed_time(end))
        else:
            began = time.perf_counter()
            run()
            taken.append((time.perf_counter() - began) * 1000)
    return min(taken[_WARM_UP_RUNS:])


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """The relative L2 error. Not a number in a result is an infinite error."""
    error = float((got.float() - wanted.float()).norm() / wanted.float().norm())
    return error if error == error else float("inf")


def _cuda_of_driver() -> str:
    """The version of CUDA that the driver supports, for a driver that does not state its own version; else ""."""
    try:
        return f"CUDA {nvrtc.check(nvrtc.bindings('driver').cuDriverGetVersion())}"
    except Exception:  # the bindings or the driver are missing: an own error class for each case
        return ""

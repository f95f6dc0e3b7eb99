"""Whether Triton works on this machine, found by running one small kernel.

Triton compiles each kernel at its first launch. It needs a C compiler, Python's headers, a driver that knows its
version of CUDA, and a folder for its cache. Where any of these is missing, a job would fail at its first kernel, after
the model was loaded. The engines therefore ask before they load, and compute without Triton where it does not work.
torch.compile needs Triton too. Knows one kernel of fused.py.
"""

import importlib.util
import logging
from functools import cache

import torch

if importlib.util.find_spec("triton") is not None:
    from lipsync_server.models.kernels import fused

log = logging.getLogger(__name__)


@cache
def why_not(device: torch.device) -> str | None:
    """The reason why Triton does not work on `device`; None if it works. The reason is also logged once."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    reason = _trial(device)
    if reason is not None:
        log.warning("Triton does not work here, so kernels are neither compiled nor fused: %s", reason)
    return reason


def _trial(device: torch.device) -> str | None:
    """The fault of a small kernel on `device`; None if its result is right."""
    if importlib.util.find_spec("triton") is None:
        return "it is not installed"
    try:
        ones = torch.ones(2, 64, dtype=torch.bfloat16, device=device)
        right = bool((fused.sum_of(ones, ones, None).data == 2).all())
    except Exception as error:  # the compiler, the driver and Triton each raise their own classes
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None if right else "a small kernel computed a wrong sum"

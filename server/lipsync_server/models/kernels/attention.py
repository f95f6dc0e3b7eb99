"""Choose the attention kernel for this device once, and log its name with the reason.

This module stands between the models and the kernels: a model gets an `Attention` from `choose` and calls it. Knows the
packages of the kernels, the GPU on which each was measured fastest, and how to test a kernel before its first use. Does
not know how a kernel computes (attention_kernels.py), nor any model.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels import attention_8bit, attention_bf16, attention_int8
from lipsync_server.models.kernels.attention_kernels import (
    EIGHT_BIT,
    KERNELS,
    OURS,
    SPARSE,
    Kernel,
    eight_bit,
    math,
    sdpa,
)

__all__ = [
    "EIGHT_BIT", "KERNELS", "OURS", "SPARSE", "Attention", "Kernel", "choose", "fastest", "math", "sdpa", "why_not",
]  # fmt: skip

_PACKAGES = {
    "xformers": "xformers.ops",
    "flash2": "flash_attn.flash_attn_interface",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
    "sage": "sageattention",
}

_TRIAL_LIMIT = 0.1
OUR_HEAD_DIM = 128
"""The numbers of one head that OURS compute with. With another head size they would read beyond a head."""
TRIAL_TOKENS = 8_192
"""Number of tokens in the measurement of `fastest`: a quarter of a window, which takes a few milliseconds."""

# Fastest first, as measured at 33,600 tokens of 40 heads of 128 in bf16; docs/performance.md.
_ORDER_HOPPER = ("cudnn", "flash3", "flash4", "flash2", "flash", "xformers", "sdpa")
_ORDER_OTHER = ("flash3", "flash4", "flash2", "flash", "cudnn", "xformers", "sdpa")


@dataclass(frozen=True)
class Attention:
    """The chosen kernel. str() gives the log line with the kernel's name and the reason.

    ours: the kernel of OURS that computes self-attention in place of `kernel`, or None. density: the share of key tiles
    that each block of queries attends to in self-attention; 1 is exact.
    """

    name: str
    reason: str
    kernel: Kernel
    ours: str | None = None
    density: float = 1.0

    @property
    def self_kernel(self) -> Kernel:
        """The kernel for self-attention."""
        if self.ours is None:
            return self.kernel
        if self.density == 1:
            return KERNELS[self.ours]
        return partial(eight_bit, form=self.ours, density=self.density)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, Nq, H, d), k and v (B, Nk, H, d) of one float type -> (B, Nq, H, d)."""
        return self.kernel(q, k, v)

    def __str__(self) -> str:
        how = " with our own in self-attention" if self.ours == "bf16" else ""
        if self.ours in EIGHT_BIT:
            values = {"fp8": ", fp8 values", "int8_both": ", int8 values"}.get(self.ours, "")
            sparse = f", {self.density:.0%} of the key tiles" if self.density < 1 else ""
            how = f" with int8 scores{values}{sparse} in self-attention"
        return f"attention: {self.name}{how} ({self.reason})"


def why_not(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why a kernel cannot run here, or None.

    A small attention is computed, because an installed package may still not work.
    """
    if name in ("sdpa", "math"):
        return None
    package = _PACKAGES.get(name)
    if package is not None and not _importable(package):
        return f"the package that provides {package} is not installed or does not load"
    if device.type != "cuda" and name != "flash":
        return "it needs an NVIDIA GPU"
    if name in OURS:
        if name == "bf16":
            reason = attention_bf16.why_not(device)
        elif name == "int8_both":
            reason = attention_int8.why_not(device)
        else:
            reason = attention_8bit.why_not(device, fp8_values=name == "fp8")
        if reason is not None:
            return reason
    try:
        wrong_by = _trial_error(KERNELS[name], device, dtype)
    except (
        Exception
    ) as error:  # a kernel of another package may raise any exception; each means that the kernel cannot be used here
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"a trial run failed: {said[0]}"
    return None if wrong_by < _TRIAL_LIMIT else f"a trial run was wrong by {wrong_by:.0%}"


def _trial_error(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Compute a small attention whose lengths are no round numbers, and return its relative error."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, 128, generator=g).to(device, dtype) for n in (50, 37, 37))
    wanted = math(q.float(), k.float(), v.float())
    return float((kernel(q, k, v).float() - wanted).norm() / wanted.norm())


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # a broken installation raises far more than ImportError
        return False
    return True


def fastest(names: Sequence[str], device: torch.device, dtype: torch.dtype, heads: int) -> tuple[str | None, str]:
    """Measure `names` on this GPU. Returns the fastest, and the milliseconds of each in words; (None, "") if none runs.

    Every kernel attends to TRIAL_TOKENS random tokens. A table of GPUs could not know this card's clock and driver.
    """
    if device.type != "cuda" or all(why_not(name, device, dtype) is not None for name in names):
        return None, ""
    q, k, v = torch.randn(3, 1, TRIAL_TOKENS, heads, 128, device=device, dtype=dtype)
    found = {name: _milliseconds(KERNELS[name], q, k, v) for name in names if why_not(name, device, dtype) is None}
    words = ", ".join(f"{name} {taken_ms:.2f} ms" for name, taken_ms in found.items())
    return min(found, key=lambda name: found[name]), f"measured here: {words}"


def _milliseconds(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor) -> float:
    """The shortest of seven runs, after three runs to warm up.

    Other work on the GPU only adds time, so the minimum is closest.
    """
    taken: list[float] = []
    for _ in range(10):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        kernel(q, k, v)
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return min(taken[3:])


def _require(name: str, device: torch.device, dtype: torch.dtype) -> None:
    reason = why_not(name, device, dtype)
    if reason is not None:
        raise EngineUnavailable(f"attention {name!r} cannot be used here: {reason}. Use auto instead.")


def choose(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    density: float = 1.0,
    reason: str = "as set",
    head_dim: int = OUR_HEAD_DIM,
) -> Attention:
    """Return the kernel for `device`: the one with this name, or with "auto" the fastest that runs.

    density below 1 needs a kernel of SPARSE. head_dim: numbers of one head in the model; OURS need 128. reason: for the
    log, why the caller named one of OURS. Raises EngineUnavailable if the named kernel cannot run here.
    """
    device = torch.device(device)
    if density != 1 and name not in SPARSE:
        raise EngineUnavailable(
            f"attention density {density:g} needs attention int8 or fp8, not {name}. Set the density to 1, or "
            "attention to fp8."
        )
    if name in OURS:
        if head_dim != OUR_HEAD_DIM:
            raise EngineUnavailable(
                f"attention {name} computes heads of {OUR_HEAD_DIM} numbers, and this model's have {head_dim}. Set "
                "attention to auto."
            )
        _require(name, device, dtype)
        return replace(choose("auto", device, dtype), reason=reason, ours=name, density=density)
    if name != "auto":
        if name not in KERNELS:
            raise EngineUnavailable(f"attention {name!r} is unknown: use auto or one of {', '.join(KERNELS)}.")
        _require(name, device, dtype)
        return Attention(name, "as set", KERNELS[name])
    if device.type != "cuda":
        return Attention("sdpa", f"torch's own on {device.type}", sdpa)
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    passed: list[str] = []
    for candidate in _ORDER_HOPPER if hopper else _ORDER_OTHER:
        if why_not(candidate, device, dtype) is None:
            skipped = f", {', '.join(passed)} not usable" if passed else ""
            return Attention(candidate, f"fastest that runs on this GPU{skipped}", KERNELS[candidate])
        passed.append(candidate)
    raise EngineUnavailable("no attention kernel runs on this GPU; update the driver or torch.")

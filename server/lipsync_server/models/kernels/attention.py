"""Which attention kernel runs here: found once, chosen once, and named in the log with the reason.

The seam between the models and the kernels: a model asks `choose` for an `Attention` and calls it. Knows which packages
the kernels come from, which GPU each was measured fastest on, and how to try a kernel before it is trusted. Does not
know the kernels' insides (attention_kernels.py) nor any model.
"""

import importlib
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels import attention_8bit, attention_bf16
from lipsync_server.models.kernels.attention_kernels import EIGHT_BIT, KERNELS, OURS, Kernel, eight_bit, math, sdpa

__all__ = ["EIGHT_BIT", "KERNELS", "OURS", "Attention", "Kernel", "choose", "math", "sdpa", "why_not"]

_PACKAGES = {
    "xformers": "xformers.ops",
    "flash2": "flash_attn.flash_attn_interface",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
    "sage": "sageattention",
}

_TRIAL_LIMIT = 0.1

# Fastest first, as measured at 33,600 tokens of 40 heads of 128 in bf16; docs/performance.md.
_ORDER_HOPPER = ("cudnn", "flash3", "flash4", "flash2", "flash", "xformers", "sdpa")
_ORDER_OTHER = ("flash3", "flash4", "flash2", "flash", "cudnn", "xformers", "sdpa")


@dataclass(frozen=True)
class Attention:
    """The chosen kernel; as a string, the line for the log that names the kernel and the reason.

    ours: the one of OURS that computes self-attention in place of `kernel`. density: the share of key tiles that each
    block of queries attends to in self-attention; 1 is exact.
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
        return partial(eight_bit, fp8_values=self.ours == "fp8", density=self.density)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v)

    def __str__(self) -> str:
        how = " with our own in self-attention" if self.ours == "bf16" else ""
        if self.ours in EIGHT_BIT:
            values = ", fp8 values" if self.ours == "fp8" else ""
            sparse = f", {self.density:.0%} of the key tiles" if self.density < 1 else ""
            how = f" with int8 scores{values}{sparse} in self-attention"
        return f"attention: {self.name}{how} ({self.reason})"


def why_not(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why a kernel cannot run here, or None. A small attention is tried, because a package may load and not work."""
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
        else:
            reason = attention_8bit.why_not(device, fp8_values=name == "fp8")
        if reason is not None:
            return reason
    try:
        wrong_by = _trial_error(KERNELS[name], device, dtype)
    except Exception as error:  # whatever a foreign kernel raises, it means the same: not this one
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"a trial run failed: {said[0]}"
    return None if wrong_by < _TRIAL_LIMIT else f"a trial run was wrong by {wrong_by:.0%}"


def _trial_error(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of a small attention whose lengths are no round numbers."""
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


def _require(name: str, device: torch.device, dtype: torch.dtype) -> None:
    reason = why_not(name, device, dtype)
    if reason is not None:
        raise EngineUnavailable(f"attention {name!r} cannot be used here: {reason}. Use auto instead.")


def choose(
    name: str, device: torch.device | str, dtype: torch.dtype = torch.bfloat16, density: float = 1.0
) -> Attention:
    """The kernel to use on `device`: the one asked for, or with "auto" the fastest one that runs.

    density below 1 needs one of EIGHT_BIT. Raises EngineUnavailable when what is asked for cannot run here.
    """
    device = torch.device(device)
    if density != 1 and name not in EIGHT_BIT:
        raise EngineUnavailable(
            f"attention density {density:g} needs attention int8 or fp8, not {name}. Set the density to 1, or "
            "attention to fp8."
        )
    if name in OURS:
        _require(name, device, dtype)
        return replace(choose("auto", device, dtype), reason="as set", ours=name, density=density)
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

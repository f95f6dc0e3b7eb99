"""Attention kernels behind one seam: detected once, chosen once, said at start-up.

Knows torch's SDPA backends, xformers, FlashAttention 2/3/4 and SageAttention, and which of them this machine has. Does
not know the transformer. Every kernel takes q (B, Nq, H, d), k and v (B, Nk, H, d) of one type and returns
(B, Nq, H, d), scaled by 1/sqrt(d), no mask, no dropout.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipsync_server.errors import EngineUnavailable

from . import attention_int8

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, backends: list[SDPBackend] | None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if backends is None:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        with sdpa_kernel(backends):
            out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own choice; on a CPU the fused kernel."""
    return _sdpa(q, k, v, None)


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _sdpa(q, k, v, [SDPBackend.CUDNN_ATTENTION])


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-2 as built into torch."""
    return _sdpa(q, k, v, [SDPBackend.FLASH_ATTENTION])


def efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _sdpa(q, k, v, [SDPBackend.EFFICIENT_ATTENTION])


def math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The plain formula, for comparison."""
    return _sdpa(q, k, v, [SDPBackend.MATH])


# The packages below are opaque to torch.compile: as operators of their own they keep a block one graph.


@torch.library.custom_op("lipsync::xformers_attention", mutates_args=())
def xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ops = importlib.import_module("xformers.ops")
    out: Tensor = ops.memory_efficient_attention(q.contiguous(), k.contiguous(), v.contiguous())
    return out


@torch.library.custom_op("lipsync::flash2_attention", mutates_args=())
def flash2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = importlib.import_module("flash_attn").flash_attn_func(q, k, v)
    return out


@torch.library.custom_op("lipsync::flash3_attention", mutates_args=())
def flash3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = importlib.import_module("flash_attn_interface").flash_attn_func(q, k, v)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


@torch.library.custom_op("lipsync::flash4_attention", mutates_args=())
def flash4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = importlib.import_module("flash_attn.cute").flash_attn_func(q, k, v)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


@torch.library.custom_op("lipsync::sage_attention", mutates_args=())
def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kernel = importlib.import_module("sageattention").sageattn
    out: Tensor = kernel(q.contiguous(), k.contiguous(), v.contiguous(), tensor_layout="NHD").clone()
    return out


@torch.library.custom_op("lipsync::int8_attention", mutates_args=())
def int8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores in int8 with centred keys, values in bf16 (attention_int8.py); one sequence, heads of 128."""
    from . import fused_kernels

    heads = q.shape[2]
    centre = k[0, ::CENTRE_STRIDE].float().mean(dim=0)
    q8, q_scale = fused_kernels.heads_int8(q[0].flatten(1), None, 0.0, heads, None, None)
    k8, k_scale = fused_kernels.heads_int8(k[0].flatten(1), None, 0.0, heads, None, centre)
    return attention_int8.attend(q8, q_scale, k8, k_scale, v[0])[None]


def _like_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


for _operator in (xformers, flash2, flash3, flash4, sage, int8):
    _operator.register_fake(_like_query)


KERNELS: dict[str, Kernel] = {
    "sdpa": sdpa,
    "cudnn": cudnn,
    "flash": flash,
    "efficient": efficient,
    "math": math,
    "xformers": xformers,
    "flash2": flash2,
    "flash3": flash3,
    "flash4": flash4,
    "sage": sage,
    "int8": int8,
}

_PACKAGES = {
    "xformers": "xformers.ops",
    "flash2": "flash_attn.flash_attn_interface",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
    "sage": "sageattention",
}

# Keys are centred on the mean of every so-manieth token before they are rounded. Any vector would leave the softmax as
# it is; the mean makes the range small.
CENTRE_STRIDE = 32

# Which kernel measured fastest at 33,600 tokens of 40 x 128 in bf16, by compute capability; docs/performance.md.
_ORDER_HOPPER = ("cudnn", "flash3", "flash4", "flash2", "flash", "xformers", "sdpa")
_ORDER_OTHER = ("flash3", "flash4", "flash2", "flash", "cudnn", "xformers", "sdpa")


@dataclass(frozen=True)
class Attention:
    """The chosen kernel, with a line for the log that says which and why.

    scores_8bit: self-attention goes through `int8` instead; cross-attention, with its few keys, stays with `kernel`.
    """

    name: str
    reason: str
    kernel: Kernel
    scores_8bit: bool = False

    @property
    def self_kernel(self) -> Kernel:
        return int8 if self.scores_8bit else self.kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v)

    def __str__(self) -> str:
        eight_bit = " with int8 scores in self-attention" if self.scores_8bit else ""
        return f"attention: {self.name}{eight_bit} ({self.reason})"


def missing(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why a kernel cannot run here, or None. A package is tried with a tiny attention, as imports alone can lie."""
    if name in ("sdpa", "math"):
        return None
    package = _PACKAGES.get(name)
    if package is not None and not _importable(package):
        return f"the package that provides {package} is not installed or does not load"
    if device.type != "cuda" and name != "flash":
        return "it needs an NVIDIA GPU"
    if name == "int8" and (why_not := attention_int8.missing(device)):
        return why_not
    try:
        sample = torch.ones(1, 16, 2, 128, device=device, dtype=dtype)
        KERNELS[name](sample, sample, sample)
    except Exception as error:  # whatever a foreign kernel raises, it means the same: not this one
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"a trial run failed: {said[0]}"
    return None


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # a broken installation raises far more than ImportError
        return False
    return True


def choose(name: str, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> Attention:
    """The kernel to use on `device`: the one asked for, or with "auto" the fastest one that runs.

    Raises EngineUnavailable when the one asked for cannot run here.
    """
    device = torch.device(device)
    if name == "int8":
        why_not = missing("int8", device, dtype)
        if why_not:
            raise EngineUnavailable(f"attention 'int8' cannot be used here: {why_not}. Use auto instead.")
        return replace(choose("auto", device, dtype), reason="as set", scores_8bit=True)
    if name != "auto":
        if name not in KERNELS:
            raise EngineUnavailable(f"attention {name!r} is unknown: use auto or one of {', '.join(KERNELS)}.")
        why_not = missing(name, device, dtype)
        if why_not:
            raise EngineUnavailable(f"attention {name!r} cannot be used here: {why_not}. Use auto instead.")
        return Attention(name, "as set", KERNELS[name])
    if device.type != "cuda":
        return Attention("sdpa", f"torch's own on {device.type}", sdpa)
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    passed: list[str] = []
    for candidate in _ORDER_HOPPER if hopper else _ORDER_OTHER:
        why_not = missing(candidate, device, dtype)
        if why_not is None:
            skipped = f", {', '.join(passed)} not usable" if passed else ""
            return Attention(candidate, f"fastest that runs on this GPU{skipped}", KERNELS[candidate])
        passed.append(candidate)
    raise EngineUnavailable("no attention kernel runs on this GPU; update the driver or torch.")

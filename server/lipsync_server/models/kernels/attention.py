"""Attention kernels behind one seam: detected once, chosen once, said at start-up.

Knows torch's SDPA backends, xformers, FlashAttention 2/3/4, SageAttention and our own, and which of them this machine
has. Does not know the transformer. Every kernel takes q (B, Nq, H, d), k and v (B, Nk, H, d) of one type and returns
(B, Nq, H, d), scaled by 1/sqrt(d), no mask, no dropout.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels import attention_8bit, attention_bf16

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
    if k.shape[1] % _SAGE_TILE:
        return sdpa(q, k, v).contiguous()
    kernel = importlib.import_module("sageattention").sageattn
    out: Tensor = kernel(q.contiguous(), k.contiguous(), v.contiguous(), tensor_layout="NHD").clone()
    return out


@torch.library.custom_op("lipsync::attention_bf16", mutates_args=())
def _bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_bf16.attend(q[0], k[0], v[0])[None]


@torch.library.custom_op("lipsync::attention_8bit", mutates_args=())
def _eight_bit(q: Tensor, k: Tensor, v: Tensor, fp8_values: bool, density: float) -> Tensor:
    """Centred keys and queries rounded, then attention_8bit.py; one sequence, heads of 128."""
    from lipsync_server.models.kernels import fused

    heads, values = q.shape[2], v[0]
    queries = fused.queries_int8(q[0].flatten(1), None, 0.0, heads, None)
    keys = fused.keys_int8(k[0].flatten(1), None, 0.0, heads, None, centre_of(k[0]))
    rounded = fused.values_fp8(values, centre_of(values)) if fp8_values else values
    chosen = None if density == 1 else attention_8bit.choose_tiles(queries, keys, density)
    return attention_8bit.attend(queries, keys, rounded, chosen)[None]


def bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Our own, as exact as bf16 is; one sequence, heads of 128."""
    out: Tensor = _bf16(q, k, v)
    return out


def int8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores in int8 with centred keys, values in bf16."""
    out: Tensor = _eight_bit(q, k, v, False, 1.0)
    return out


def fp8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores in int8 with centred keys, centred values in fp8."""
    out: Tensor = _eight_bit(q, k, v, True, 1.0)
    return out


def centre_of(x: Tensor) -> Tensor:
    """A vector near the middle of x (N, H, d), float32: the mean of every so-manieth token.

    Attention is the same whatever is subtracted from all keys, or subtracted from all values and added to the result;
    the mean makes what is left to round small.
    """
    sample = x if x.shape[0] < CENTRE_STRIDE**2 else x[::CENTRE_STRIDE]
    return sample.float().mean(dim=0)


def _like_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


for _operator in (xformers, flash2, flash3, flash4, sage, _bf16):
    _operator.register_fake(_like_query)


@_eight_bit.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, fp8_values: bool, density: float) -> Tensor:
    return _like_query(q, k, v)


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
    "bf16": bf16,
    "int8": int8,
    "fp8": fp8,
}

EIGHT_BIT = ("int8", "fp8")
OURS = ("bf16", *EIGHT_BIT)
"""For self-attention only: cross-attention has too few keys to gain from them."""

_PACKAGES = {
    "xformers": "xformers.ops",
    "flash2": "flash_attn.flash_attn_interface",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
    "sage": "sageattention",
}

CENTRE_STRIDE = 32
# SageAttention 1 counts the padding of a last tile that is not full as keys: 0.3 of relative error with 37 keys.
_SAGE_TILE = 64
_TRIAL_LIMIT = 0.1

# Which kernel measured fastest at 33,600 tokens of 40 x 128 in bf16, by compute capability; docs/performance.md.
_ORDER_HOPPER = ("cudnn", "flash3", "flash4", "flash2", "flash", "xformers", "sdpa")
_ORDER_OTHER = ("flash3", "flash4", "flash2", "flash", "cudnn", "xformers", "sdpa")


@dataclass(frozen=True)
class Attention:
    """The chosen kernel, with a line for the log that says which and why.

    ours: self-attention goes through this one of OURS instead. density: the share of key tiles that it then
    looks at; 1 is exact.
    """

    name: str
    reason: str
    kernel: Kernel
    ours: str | None = None
    density: float = 1.0

    @property
    def self_kernel(self) -> Kernel:
        if self.ours is None:
            return self.kernel
        if self.density == 1:
            return KERNELS[self.ours]
        return partial(_eight_bit, fp8_values=self.ours == "fp8", density=self.density)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v)

    def __str__(self) -> str:
        how = " with our own in self-attention" if self.ours == "bf16" else ""
        if self.ours in EIGHT_BIT:
            values = ", fp8 values" if self.ours == "fp8" else ""
            sparse = f", {self.density:.0%} of the key tiles" if self.density < 1 else ""
            how = f" with int8 scores{values}{sparse} in self-attention"
        return f"attention: {self.name}{how} ({self.reason})"


def missing(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why a kernel cannot run here, or None. A kernel is tried with a small attention, as imports alone can lie."""
    if name in ("sdpa", "math"):
        return None
    package = _PACKAGES.get(name)
    if package is not None and not _importable(package):
        return f"the package that provides {package} is not installed or does not load"
    if device.type != "cuda" and name != "flash":
        return "it needs an NVIDIA GPU"
    if name in OURS:
        if name == "bf16":
            why_not = attention_bf16.missing(device)
        else:
            why_not = attention_8bit.missing(device, fp8_values=name == "fp8")
        if why_not is not None:
            return why_not
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
        why_not = missing(name, device, dtype)
        if why_not:
            raise EngineUnavailable(f"attention {name!r} cannot be used here: {why_not}. Use auto instead.")
        return replace(choose("auto", device, dtype), reason="as set", ours=name, density=density)
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

"""Choose the attention kernel for this device once, and log its name with the reason.

This module stands between the models and the kernels: a model gets an `Attention` from `choose` and calls it. "auto" is
the kernel that was fastest on this card (choice.py). Knows the packages of the kernels, the candidates for each kind of
attention with their limits of error, and how to test a kernel before its first use. Does not know how a kernel computes
(attention_kernels.py), nor any model.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

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
from lipsync_server.models.kernels.card import chooser_for, relative_error
from lipsync_server.models.kernels.choice import Chooser, Question, Way

__all__ = [
    "EIGHT_BIT", "EXACT_CANDIDATES", "GENERAL", "KERNELS", "OURS", "ROUNDED_CANDIDATES", "SPARSE", "Attention",
    "Kernel", "choose", "fastest", "math", "sdpa", "why_not",
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
TRIAL_TOKENS = 33_600
"""Number of queries in the measurement of a choice: those of a window of 480p. With fewer tokens rounding, whose cost
grows with the tokens and not with their square, would count too much: with 8,192 tokens an H200 showed our bf16
attention as fast as cuDNN's, which takes 1.2 times as long with 33,600."""
_TRIAL_HEADS = 8
"""The most heads in that measurement. Each head takes the same time, and eight fill a card for some milliseconds."""
_FEW_KEYS = 512
"""Number of keys of cross-attention to the prompt's tokens."""
_COMPARED_QUERIES = 128

GENERAL = ("cudnn", "flash3", "flash4", "flash2", "flash", "xformers", "sdpa")
"""Kernels for any number of keys and any head, which all compute in the model's own float type."""
EXACT_CANDIDATES = ("bf16", *GENERAL)
"""Candidates for self-attention beside 16-bit linear layers."""
ROUNDED_CANDIDATES = ("fp8", "int8_both", *EXACT_CANDIDATES)
"""Candidates for self-attention beside linear layers that compute in 8 bits, whose error hides the kernels' own."""
# Relative errors on normal values against float32. Measured: fp8 0.045, int8_both 0.018, the others at most 0.003.
_LIMITS = {"fp8": 0.06, "int8_both": 0.03}
_LIMIT = 0.01


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

    @property
    def name_in_self(self) -> str:
        """The name of the kernel for self-attention."""
        return self.name if self.ours is None else self.ours

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
    """The reason why a kernel cannot run here; None if it can.

    A small attention is computed, because an installed package may still not work.
    """
    try:
        return _why_not(name, device, dtype)
    except Exception as error:  # a kernel of another package may raise any; each means that it cannot be used here
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"a trial run failed: {lines[0]}"


def _why_not(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """As `why_not`, but raises what the small attention raises, so that a chooser can see that memory ran out."""
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
    wrong_by = _trial_error(KERNELS[name], device, dtype)
    return None if wrong_by < _TRIAL_LIMIT else f"a trial run was wrong by {wrong_by:.0%}"


def _trial_error(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Compute a small attention whose lengths are no round numbers, and return its relative error."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, 128, generator=g).to(device, dtype) for n in (50, 37, 37))
    wanted = math(q.float(), k.float(), v.float())
    return float((kernel(q, k, v).float() - wanted).norm() / wanted.norm())


def _importable(module: str) -> bool:
    """Whether a module can be imported. Imports it."""
    try:
        importlib.import_module(module)
    except Exception:  # a broken installation raises far more than ImportError
        return False
    return True


def fastest(
    names: Sequence[str], device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, chooser: Chooser
) -> tuple[str | None, str]:
    """The kernel of `names` that is fastest for self-attention on this card, and the reason; (None, "") without any."""
    if device.type != "cuda":
        return None, ""
    rounds = "8-bit" if set(names) & set(EIGHT_BIT) else "exact"
    heads = min(heads, _TRIAL_HEADS)
    shape = f"{rounds} {heads} heads of {head_dim}, {TRIAL_TOKENS} tokens"
    found = _chosen(Trial("attention", shape, TRIAL_TOKENS, heads, head_dim), names, device, dtype, chooser)
    return found if found is not None else (None, "")


@dataclass(frozen=True)
class Trial:
    """The sizes of one measurement. kind, shape: as in choice.Question."""

    kind: str
    shape: str
    n_keys: int
    heads: int
    head_dim: int


def _chosen(
    trial: Trial, names: Sequence[str], device: torch.device, dtype: torch.dtype, chooser: Chooser
) -> tuple[str, str] | None:
    """Ask `chooser` for the fastest kernel of `names` for random queries, keys and values of the trial's sizes."""

    @cache
    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        random = torch.Generator(device).manual_seed(0)
        q, k, v = (
            torch.randn(1, n, trial.heads, trial.head_dim, generator=random, device=device, dtype=dtype)
            for n in (TRIAL_TOKENS, trial.n_keys, trial.n_keys)
        )
        return q, k, v

    def plain() -> Tensor:
        q, k, v = inputs()
        return math(q[:, some].float(), k.float(), v.float())

    some = slice(None, _COMPARED_QUERIES)
    question = Question(
        trial.kind,
        trial.shape,
        plain=plain,
        error=lambda got, wanted: relative_error(got[:, some], wanted),
        plain_way="sdpa",
    )
    ways = {
        name: Way(
            partial(_with, inputs, KERNELS[name]), _LIMITS.get(name, _LIMIT), partial(_why_not, name, device, dtype)
        )
        for name in names
    }
    choice = chooser.choose(question, ways)
    return None if choice is None else (choice.way, choice.reason)


def _with(inputs: Callable[[], tuple[Tensor, Tensor, Tensor]], kernel: Kernel) -> Tensor:
    """The result of `kernel` on the inputs, which the first call makes."""
    return kernel(*inputs())


def _require(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise EngineUnavailable with the reason if the kernel `name` cannot run on `device`."""
    reason = why_not(name, device, dtype)
    if reason is not None:
        raise EngineUnavailable(f"attention {name!r} cannot be used here: {reason}. Use auto instead.")


def choose(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    density: float = 1.0,
    *,
    heads: int = 40,
    head_dim: int = OUR_HEAD_DIM,
    in_8bit: bool = False,
    chooser: Chooser | None = None,
) -> Attention:
    """Return the attention for `device`: the kernel with this name, or with "auto" the fastest that runs there.

    density below 1 needs a kernel of SPARSE. heads, head_dim: of the model; OURS need heads of 128 numbers. in_8bit:
    "auto" may round self-attention to 8 bits, because the model's linear layers do. chooser: measures "auto" and keeps
    the choice; None measures for this process. Raises EngineUnavailable if the named kernel cannot run here.
    """
    device = torch.device(device)
    if density != 1 and name not in SPARSE:
        raise EngineUnavailable(
            f"attention density {density:g} needs attention int8 or fp8, not {name}. Set the density to 1, or "
            "attention to fp8."
        )
    if name not in OURS and name != "auto":
        if name not in KERNELS:
            raise EngineUnavailable(f"attention {name!r} is unknown: use auto or one of {', '.join(KERNELS)}.")
        _require(name, device, dtype)
        return Attention(name, "as set", KERNELS[name])
    if name in OURS:
        if head_dim != OUR_HEAD_DIM:
            raise EngineUnavailable(
                f"attention {name} computes heads of {OUR_HEAD_DIM} numbers, and this model's have {head_dim}. Set "
                "attention to auto."
            )
        _require(name, device, dtype)
    if device.type != "cuda":
        return Attention("sdpa", f"torch's own on {device.type}", sdpa)
    chooser = chooser or chooser_for(device)
    reason, own = "as set", name
    if name == "auto":
        ours = () if head_dim != OUR_HEAD_DIM or dtype != torch.bfloat16 else OURS
        names = ROUNDED_CANDIDATES if in_8bit else EXACT_CANDIDATES
        candidates = [one for one in names if one in ours or one in GENERAL]
        found, reason = fastest(candidates, device, dtype, heads, head_dim, chooser)
        if found is None:
            raise EngineUnavailable("no attention kernel runs on this GPU; update the driver or torch.")
        if found not in OURS:
            return Attention(found, reason, KERNELS[found])
        own = found
    heads = min(heads, _TRIAL_HEADS)
    few = Trial("cross_attention", f"{heads} heads of {head_dim}, {_FEW_KEYS} keys", _FEW_KEYS, heads, head_dim)
    general = _chosen(few, GENERAL, device, dtype, chooser)
    if general is None:
        raise EngineUnavailable("no attention kernel runs on this GPU; update the driver or torch.")
    return Attention(general[0], reason, KERNELS[general[0]], ours=own, density=density)

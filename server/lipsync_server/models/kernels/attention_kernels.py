"""One adapter for each attention kernel, all with the same arguments.

Attention mixes the values of all tokens, weighted by how well each token's key fits the query:

    out = softmax(q k^T / sqrt(d)) v                      Attention Is All You Need, https://arxiv.org/abs/1706.03762

Only `math` stores the N x N matrix softmax(q k^T / sqrt(d)). A fused kernel reads the keys tile by tile and keeps a
running maximum and sum (FlashAttention, https://arxiv.org/abs/2205.14135). The kernels differ in the GPUs on which they
are fast, and in the packages that they need. Every adapter takes q (B, Nq, H, d), k and v (B, Nk, H, d) of one type and
returns (B, Nq, H, d), without mask and dropout. Does not choose a kernel (attention.py does).
"""

import importlib
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipsync_server.models.kernels import attention_bf16

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
# SageAttention 1 treats the padding of a partial last tile as keys: a relative error of 0.3 with 37 keys.
_SAGE_TILE = 64


def _sdpa(q: Tensor, k: Tensor, v: Tensor, backends: list[SDPBackend] | None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if backends is None:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        with sdpa_kernel(backends):
            out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own choice among its kernels; on a CPU its fused kernel."""
    return _sdpa(q, k, v, None)


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The attention of cuDNN, NVIDIA's library, through torch."""
    return _sdpa(q, k, v, [SDPBackend.CUDNN_ATTENTION])


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-2 as built into torch."""
    return _sdpa(q, k, v, [SDPBackend.FLASH_ATTENTION])


def efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's memory-efficient attention, which runs on older GPUs too."""
    return _sdpa(q, k, v, [SDPBackend.EFFICIENT_ATTENTION])


def math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The plain formula, for comparison."""
    return _sdpa(q, k, v, [SDPBackend.MATH])


# torch.compile cannot trace the packages below. Registered as operators, they do not split a block's graph.


@torch.library.custom_op("lipsync::xformers_attention", mutates_args=())
def xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Package xformers: memory-efficient attention."""
    ops = importlib.import_module("xformers.ops")
    out: Tensor = ops.memory_efficient_attention(q.contiguous(), k.contiguous(), v.contiguous())
    return out


@torch.library.custom_op("lipsync::flash2_attention", mutates_args=())
def flash2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Package flash_attn: FlashAttention-2."""
    out: Tensor = importlib.import_module("flash_attn").flash_attn_func(q, k, v)
    return out


@torch.library.custom_op("lipsync::flash3_attention", mutates_args=())
def flash3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-3, for Hopper."""
    out = importlib.import_module("flash_attn_interface").flash_attn_func(q, k, v)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


@torch.library.custom_op("lipsync::flash4_attention", mutates_args=())
def flash4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-4, for Hopper and Blackwell."""
    out = importlib.import_module("flash_attn.cute").flash_attn_func(q, k, v)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


@torch.library.custom_op("lipsync::sage_attention", mutates_args=())
def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Package sageattention: scores in 8 bits."""
    if k.shape[1] % _SAGE_TILE:
        return sdpa(q, k, v).contiguous()
    kernel = importlib.import_module("sageattention").sageattn
    out: Tensor = kernel(q.contiguous(), k.contiguous(), v.contiguous(), tensor_layout="NHD").clone()
    return out


@torch.library.custom_op("lipsync::attention_bf16", mutates_args=())
def _bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_bf16.attend(q[0], k[0], v[0])[None]


@torch.library.custom_op("lipsync::attention_8bit", mutates_args=())
def eight_bit(q: Tensor, k: Tensor, v: Tensor, form: str, density: float) -> Tensor:
    """attention_rounded.py for one sequence (B = 1) and heads of 128."""
    from lipsync_server.models.kernels import attention_rounded  # needs Triton

    return attention_rounded.attend(q[0].flatten(1), k[0].flatten(1), v[0], form=form, density=density)[None]


def bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Our own kernel in bf16 throughout; one sequence (B = 1), heads of 128."""
    out: Tensor = _bf16(q, k, v)
    return out


def int8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores in int8 with centred keys, values in bf16."""
    out: Tensor = eight_bit(q, k, v, "int8", 1.0)
    return out


def fp8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores in int8 with centred keys, centred values in fp8."""
    out: Tensor = eight_bit(q, k, v, "fp8", 1.0)
    return out


def int8_both(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Both products in int8, on any GPU since Ampere."""
    out: Tensor = eight_bit(q, k, v, "int8_both", 1.0)
    return out


def _like_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


for _operator in (xformers, flash2, flash3, flash4, sage, _bf16):
    _operator.register_fake(_like_query)


@eight_bit.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, form: str, density: float) -> Tensor:
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
    "int8_both": int8_both,
}

SPARSE = ("int8", "fp8")
"""The kernels that can attend to a part of the key tiles."""
EIGHT_BIT = (*SPARSE, "int8_both")
OURS = ("bf16", *EIGHT_BIT)
"""Our kernels, which serve self-attention only. Cross-attention has too few keys to become faster."""

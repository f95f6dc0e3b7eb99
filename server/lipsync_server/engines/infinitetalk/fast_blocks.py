"""The blocks for one person in fp8 on an NVIDIA GPU: matrix products, attentions and one fused pass between them.

Knows the same mathematics as blocks.Block, whose parameters it uses, and the kernels that compute it faster. Does not
know embeddings, caching or loading. Rounding: the big linear layers in fp8, self-attention in 8 bits where that
kernel runs; everything between in float32 registers. blocks.Block stays the reference, and what two people use.
"""

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import attention_8bit
from .attention import CENTRE_STRIDE, Attention, Kernel, centre_of
from .blocks import Block, LayerContext
from .quant import QuantizedLinear
from .rope import RotaryTable, rotate

if importlib.util.find_spec("triton") is not None:
    from . import fused_kernels as fused


@dataclass(frozen=True)
class Pending:
    """A residual stream with an update that the next fused pass will add: x + y * gate."""

    x: Tensor
    y: Tensor | None = None
    gate: Tensor | None = None

    def settle(self) -> Tensor:
        """The plain sum."""
        if self.y is None or self.gate is None:
            return self.x
        return (self.x + self.y.float() * self.gate).to(self.x.dtype)


def missing(block: Block, device: torch.device) -> str | None:
    """Why the fast path cannot run this block on `device`, or None."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    layers = (
        block.self_attn.qkv, block.self_attn.o, block.cross_attn.q, block.cross_attn.o,
        block.audio_cross_attn.q_linear, block.audio_cross_attn.proj, block.ffn[0], block.ffn[2],
    )  # fmt: skip
    for layer in layers:
        if not (isinstance(layer, QuantizedLinear) and layer.kind == "fp8" and layer.activations == "dynamic"):
            return "its linear layers do not compute in fp8"
    return None


def forward(
    block: Block, pending: Pending, e0: Tensor, context: LayerContext, rope: RotaryTable, attention: Attention
) -> Pending:
    """One block. e0 (1, 6, D) float32. Its last update stays pending for the next block's first pass."""
    eps = block.norm1.eps
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation.float() + e0)[0]
    x, rounded = fused.norm_fp8(pending.x, pending.y, pending.gate, 1 + scale1, shift1, eps)
    y = _self_attention(block, rounded, rope, attention)

    x, rounded = fused.norm_fp8(x, y, gate1, _f32(block.norm3.weight), _f32(block.norm3.bias), eps)
    y = _cross_attention(block, rounded, context, attention.kernel)

    x, rounded = fused.norm_fp8(x, y, None, _f32(block.norm_x.weight), _f32(block.norm_x.bias), eps)
    y = _audio_attention(block, rounded, context, attention.kernel)

    x, rounded = fused.norm_fp8(x, y, None, 1 + scale2, shift2, eps)
    y = _multiply(block.ffn[2], fused.gelu_fp8(_multiply(block.ffn[0], rounded)))
    return Pending(x, y, gate2)


def _self_attention(block: Block, rounded: "fused.Rounded", rope: RotaryTable, attention: Attention) -> Tensor:
    part = block.self_attn
    q, k, v = _multiply(part.qkv, rounded).chunk(3, dim=-1)
    eps, heads = part.norm_q.eps, part.heads
    v = v.unflatten(-1, (heads, -1))
    if attention.eight_bit is not None:
        sample = slice(None, None, CENTRE_STRIDE)
        some = part.norm_k(k[sample]).unflatten(-1, (heads, -1))
        centre = rotate(some, RotaryTable(rope.cos[sample], rope.sin[sample])).mean(dim=0)
        queries = fused.queries_int8(q, part.norm_q.weight, eps, heads, rope)
        keys = fused.keys_int8(k, part.norm_k.weight, eps, heads, rope, centre)
        values = fused.values_fp8(v, centre_of(v)) if attention.eight_bit == "fp8" else v
        chosen = None if attention.density == 1 else attention_8bit.choose_tiles(queries, keys, attention.density)
        out = attention_8bit.attend(queries, keys, values, chosen)
    else:
        q = fused.heads_bf16(q, part.norm_q.weight, eps, heads, rope)
        k = fused.heads_bf16(k, part.norm_k.weight, eps, heads, rope)
        out = attention.self_kernel(q[None], k[None], v[None])[0]
    return _multiply(part.o, fused.sum_fp8(out.flatten(1)))


def _cross_attention(block: Block, rounded: "fused.Rounded", context: LayerContext, attend: Kernel) -> Tensor:
    part = block.cross_attn
    q = fused.heads_bf16(_multiply(part.q, rounded), part.norm_q.weight, part.norm_q.eps, part.heads, None)[None]
    text, image = attend(q, *context.text)[0], attend(q, *context.image)[0]
    return _multiply(part.o, fused.sum_fp8(text.flatten(1), image.flatten(1)))


def _audio_attention(block: Block, rounded: "fused.Rounded", context: LayerContext, attend: Kernel) -> Tensor:
    part = block.audio_cross_attn
    q = _multiply(part.q_linear, rounded).unflatten(-1, (part.heads, -1))
    out = attend(q.unflatten(0, (context.audio.k.shape[0], -1)), *context.audio)
    return _multiply(part.proj, fused.sum_fp8(out.flatten(0, 1).flatten(1)))


def _multiply(layer: nn.Module, rounded: "fused.Rounded") -> Tensor:
    """An fp8 product with one scale per row on both sides."""
    assert isinstance(layer, QuantizedLinear)
    return torch._scaled_mm(
        rounded.data, layer.data.t(), scale_a=rounded.scale, scale_b=layer.scale.t(), bias=layer.bias,
        out_dtype=torch.bfloat16, use_fast_accum=True,
    )  # fmt: skip


def _f32(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.float()

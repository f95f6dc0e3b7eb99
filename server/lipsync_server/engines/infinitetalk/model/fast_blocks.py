"""The blocks for one person on an NVIDIA GPU: matrix products, attentions and one fused pass between them.

Knows the same mathematics as blocks.Block, whose parameters it uses, and the kernels that compute it faster. Does not
know embeddings, caching or loading. Rounding: the big linear layers in fp8, int8 or bf16 as they are, self-attention in
8 bits where that is chosen; everything between in float32 registers. blocks.Block stays the reference, and what two
people use.
"""

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lipsync_server.engines.infinitetalk.model.blocks import Block, LayerContext
from lipsync_server.models.kernels import attention_8bit
from lipsync_server.models.kernels.attention import CENTRE_STRIDE, EIGHT_BIT, Attention, Kernel, centre_of
from lipsync_server.models.kernels.rope import RotaryTable, rotate
from lipsync_server.models.layers.linear_8bit import Kind, QuantizedLinear, multiply_rows

if importlib.util.find_spec("triton") is not None:
    from lipsync_server.models.kernels import fused


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
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU that computes in bf16 (Ampere or newer)"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    layers = (
        block.self_attn.qkv, block.self_attn.o, block.cross_attn.q, block.cross_attn.o,
        block.audio_cross_attn.q_linear, block.audio_cross_attn.proj, block.ffn[0], block.ffn[2],
    )  # fmt: skip
    kinds = {_kind_of(layer) for layer in layers}
    return None if len(kinds) == 1 and "plain" not in kinds else "its linear layers do not all compute alike"


def _kind_of(layer: nn.Module) -> Kind | Literal["plain"] | None:
    """How a linear layer's product is computed; None is in bf16, "plain" in no way that the fast path knows."""
    if isinstance(layer, QuantizedLinear):
        return layer.kind if layer.activations == "dynamic" else "plain"
    return None if isinstance(layer, nn.Linear) and layer.weight.dtype == torch.bfloat16 else "plain"


def forward(
    block: Block, pending: Pending, e0: Tensor, context: LayerContext, rope: RotaryTable, attention: Attention
) -> Pending:
    """One block. e0 (1, 6, D) float32. Its last update stays pending for the next block's first pass."""
    eps, first = block.norm1.eps, block.ffn[0]
    kind = first.kind if isinstance(first, QuantizedLinear) else None
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation.float() + e0)[0]
    x, rows = fused.norm(pending.x, pending.y, pending.gate, 1 + scale1, shift1, eps, kind)
    y = _self_attention(block, rows, rope, attention)

    x, rows = fused.norm(x, y, gate1, _f32(block.norm3.weight), _f32(block.norm3.bias), eps, kind)
    y = _cross_attention(block, rows, context, attention.kernel)

    x, rows = fused.norm(x, y, None, _f32(block.norm_x.weight), _f32(block.norm_x.bias), eps, kind)
    y = _audio_attention(block, rows, context, attention.kernel)

    x, rows = fused.norm(x, y, None, 1 + scale2, shift2, eps, kind)
    y = _multiply(block.ffn[2], _multiply_gelu(block.ffn[0], rows))
    return Pending(x, y, gate2)


def _self_attention(block: Block, rows: "fused.Rows", rope: RotaryTable, attention: Attention) -> Tensor:
    part = block.self_attn
    q, k, v = _multiply(part.qkv, rows).chunk(3, dim=-1)
    eps, heads = part.norm_q.eps, part.heads
    v = v.unflatten(-1, (heads, -1))
    if attention.ours in EIGHT_BIT:
        sample = slice(None, None, CENTRE_STRIDE)
        some = part.norm_k(k[sample]).unflatten(-1, (heads, -1))
        centre = rotate(some, RotaryTable(rope.cos[sample], rope.sin[sample])).mean(dim=0)
        queries = fused.queries_int8(q, part.norm_q.weight, eps, heads, rope)
        keys = fused.keys_int8(k, part.norm_k.weight, eps, heads, rope, centre)
        values = fused.values_fp8(v, centre_of(v)) if attention.ours == "fp8" else v
        chosen = None if attention.density == 1 else attention_8bit.choose_tiles(queries, keys, attention.density)
        out = attention_8bit.attend(queries, keys, values, chosen)
    else:
        q = fused.heads_bf16(q, part.norm_q.weight, eps, heads, rope)
        k = fused.heads_bf16(k, part.norm_k.weight, eps, heads, rope)
        out = attention.self_kernel(q[None], k[None], v[None])[0]
    return _multiply(part.o, fused.sum_of(out.flatten(1), None, rows.kind))


def _cross_attention(block: Block, rows: "fused.Rows", context: LayerContext, attend: Kernel) -> Tensor:
    part = block.cross_attn
    q = fused.heads_bf16(_multiply(part.q, rows), part.norm_q.weight, part.norm_q.eps, part.heads, None)[None]
    text, image = attend(q, *context.text)[0], attend(q, *context.image)[0]
    return _multiply(part.o, fused.sum_of(text.flatten(1), image.flatten(1), rows.kind))


def _audio_attention(block: Block, rows: "fused.Rows", context: LayerContext, attend: Kernel) -> Tensor:
    part = block.audio_cross_attn
    q = _multiply(part.q_linear, rows).unflatten(-1, (part.heads, -1))
    out = attend(q.unflatten(0, (context.audio.k.shape[0], -1)), *context.audio)
    return _multiply(part.proj, fused.sum_of(out.flatten(0, 1).flatten(1), None, rows.kind))


def _multiply(layer: nn.Module, rows: "fused.Rows") -> Tensor:
    """The layer of bf16 rows, or an 8-bit product with one scale per row on both sides."""
    if rows.scale is None:
        out: Tensor = layer(rows.data)
        return out
    assert isinstance(layer, QuantizedLinear)
    return multiply_rows(rows.data, rows.scale, layer.data, layer.scale, layer.bias, torch.bfloat16)


def _multiply_gelu(layer: nn.Module, rows: "fused.Rows") -> "fused.Rows":
    """The tanh-GELU of a product: in bf16 within the product's own kernel."""
    if rows.kind is not None:
        return fused.gelu(_multiply(layer, rows), rows.kind)
    assert isinstance(layer, nn.Linear)
    return fused.Rows(torch._addmm_activation(layer.bias, rows.data, layer.weight.t(), use_gelu=True))


def _f32(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.float()

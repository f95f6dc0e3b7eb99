"""Parts of a Wan block on an NVIDIA GPU: matrix products with one fused pass over memory between them.

The plain form of a block makes one pass over all tokens for each norm, scale, shift and gate. Here one Triton kernel
(kernels/fused.py) does all steps between two products, in float32 in registers. Knows how a linear layer's product is
computed (bf16, fp8 or int8), and self-attention. Does not know the order of an engine's block.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lipsync_server.models.kernels.attention import EIGHT_BIT, Attention
from lipsync_server.models.kernels.product_8bit import multiply_rows
from lipsync_server.models.kernels.rope import RotaryTable
from lipsync_server.models.layers.linear_8bit import QuantizedLinear
from lipsync_server.models.layers.norms import LayerNorm
from lipsync_server.models.layers.self_attention import SelfAttentionLayers
from lipsync_server.quantization import EightBit

if importlib.util.find_spec("triton") is not None:
    from lipsync_server.models.kernels import attention_rounded, fused


@dataclass(frozen=True)
class Pending:
    """A residual stream with an update that the next fused pass will add: x + y * gate."""

    x: Tensor
    y: Tensor | None = None
    gate: Tensor | None = None

    def settle(self) -> Tensor:
        """The sum x + y * gate: (N, D) bf16."""
        if self.y is None or self.gate is None:
            return self.x
        return (self.x + self.y.float() * self.gate).to(self.x.dtype)


def why_not(layers: Iterable[nn.Module], device: torch.device) -> str | None:
    """The reason why a block cannot run in fused passes on `device`; None if it can.

    layers: the block's products over all tokens.
    """
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU that computes in bf16 (Ampere or newer)"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    kinds = {_kind_of(layer) for layer in layers}
    return None if len(kinds) == 1 and "plain" not in kinds else "its linear layers do not all compute alike"


def _kind_of(layer: nn.Module) -> EightBit | Literal["plain"] | None:
    """The number format of a linear layer's product: None is bf16; "plain" is a format without a fast path."""
    if isinstance(layer, QuantizedLinear):
        return layer.kind if layer.activations == "dynamic" else "plain"
    return None if isinstance(layer, nn.Linear) and layer.weight.dtype == torch.bfloat16 else "plain"


def self_attention(part: SelfAttentionLayers, rows: "fused.Rows", rope: RotaryTable, attention: Attention) -> Tensor:
    """Self-attention of normed rows (N, D), with the output layer: (N, D) bf16."""
    q, k, v = multiply(part.qkv, rows).chunk(3, dim=-1)
    eps, heads = part.norm_q.eps, part.heads
    v = v.unflatten(-1, (heads, -1))
    if attention.ours is not None and attention.ours in EIGHT_BIT:
        out = attention_rounded.attend(
            q, k, v, form=attention.ours, density=attention.density,
            norm=attention_rounded.RowNorm(part.norm_q.weight, part.norm_k.weight, eps), rope=rope,
        )  # fmt: skip
    else:
        q = fused.heads_bf16(q, part.norm_q.weight, eps, heads, rope)
        k = fused.heads_bf16(k, part.norm_k.weight, eps, heads, rope)
        out = attention.self_kernel(q[None], k[None], v[None])[0]
    return multiply(part.o, fused.sum_of(out.flatten(1), None, rows.kind))


def multiply(layer: nn.Module, rows: "fused.Rows") -> Tensor:
    """The layer's product with rows (N, in): (N, out) bf16; in 8 bits there is one scale a row on both sides."""
    if rows.scale is None:
        out: Tensor = layer(rows.data)
        return out
    assert isinstance(layer, QuantizedLinear)
    return multiply_rows(rows.data, rows.scale, layer.data, layer.scale, layer.bias, torch.bfloat16, layer.tile)


def multiply_gelu(layer: nn.Module, rows: "fused.Rows") -> "fused.Rows":
    """The tanh-GELU of a product: in bf16 within the product's own kernel."""
    if rows.kind is not None:
        return fused.gelu(multiply(layer, rows), rows.kind)
    assert isinstance(layer, nn.Linear)
    return fused.Rows(torch._addmm_activation(layer.bias, rows.data, layer.weight.t(), use_gelu=True))


def affine(norm: LayerNorm) -> tuple[Tensor, Tensor]:
    """The weight and the bias (D,) of a layer norm that has both."""
    assert norm.weight is not None
    assert norm.bias is not None
    return norm.weight, norm.bias

"""The blocks for one person on an NVIDIA GPU: matrix products, attention, and fused kernels between them.

Knows the same mathematics as blocks.Block, whose parameters it uses, and the kernels that compute it faster. Does not
know embeddings, caching or loading. Rounding: the big linear layers compute in the type of their weights (fp8, int8 or
bf16), self-attention in 8 bits where that is chosen, and everything between in float32 registers. blocks.Block is the
reference, and computes videos of two people.
"""

import importlib.util

import torch
from torch import Tensor

from lipsync_server.engines.infinitetalk.model.blocks import Block, BlockContext
from lipsync_server.models.kernels.attention import Attention, Kernel
from lipsync_server.models.kernels.rope import RotaryTable
from lipsync_server.models.layers import fast
from lipsync_server.models.layers.fast import Pending, multiply, multiply_gelu
from lipsync_server.models.layers.linear_8bit import QuantizedLinear

if importlib.util.find_spec("triton") is not None:
    from lipsync_server.models.kernels import fused


def why_not(block: Block, device: torch.device) -> str | None:
    """The reason why the fast path cannot run this block on `device`; None if it can."""
    layers = (
        block.self_attn.qkv, block.self_attn.o, block.cross_attn.q, block.cross_attn.o,
        block.audio_cross_attn.q_linear, block.audio_cross_attn.proj, block.ffn[0], block.ffn[2],
    )  # fmt: skip
    return fast.why_not(layers, device)


def forward(
    block: Block, pending: Pending, e0: Tensor, context: BlockContext, rope: RotaryTable, attention: Attention
) -> Pending:
    """One block: takes and returns hidden states (N, D) with an update that is still to be added (`Pending`).

    e0: (1, 6, D) float32, the timestep's shifts, scales and gates. The block's last update is left pending, so that the
    first fused kernel of the next block adds it in the same pass over memory.
    """
    eps, first = block.norm1.eps, block.ffn[0]
    kind = first.kind if isinstance(first, QuantizedLinear) else None
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation + e0)[0]
    x, rows = fused.norm(pending.x, pending.y, pending.gate, scale1, shift1, eps, kind, plus_one=True)
    y = fast.self_attention(block.self_attn, rows, rope, attention)

    x, rows = fused.norm(x, y, gate1, *fast.affine(block.norm3), eps, kind)
    y = _cross_attention(block, rows, context, attention.kernel)

    x, rows = fused.norm(x, y, None, *fast.affine(block.norm_x), eps, kind)
    y = _audio_attention(block, rows, context, attention.kernel)

    x, rows = fused.norm(x, y, None, scale2, shift2, eps, kind, plus_one=True)
    y = multiply(block.ffn[2], multiply_gelu(block.ffn[0], rows))
    return Pending(x, y, gate2)


def _cross_attention(block: Block, rows: "fused.Rows", context: BlockContext, attend: Kernel) -> Tensor:
    part = block.cross_attn
    q = fused.heads_bf16(multiply(part.q, rows), part.norm_q.weight, part.norm_q.eps, part.heads, None)[None]
    text, image = attend(q, *context.text)[0], attend(q, *context.image)[0]
    return multiply(part.o, fused.sum_of(text.flatten(1), image.flatten(1), rows.kind))


def _audio_attention(block: Block, rows: "fused.Rows", context: BlockContext, attend: Kernel) -> Tensor:
    part = block.audio_cross_attn
    q = multiply(part.q_linear, rows).unflatten(-1, (part.heads, -1))
    out = attend(q.unflatten(0, (context.audio.k.shape[0], -1)), *context.audio)
    return multiply(part.proj, fused.sum_of(out.flatten(0, 1).flatten(1), None, rows.kind))

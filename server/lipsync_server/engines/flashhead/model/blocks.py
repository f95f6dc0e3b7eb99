"""One block of the FlashHead transformer: self-attention, attention to the sound, feed-forward.

The block is Wan's, without text and picture. Sound replaces the text, and each latent frame attends to its own sound
only. `forward` is the plain form; `fast_forward` computes the same on an NVIDIA GPU in fused passes. Tokens are
unbatched: x is (N, D), float32 or bfloat16, with N = T * S, frame-major (T latent frames of S tokens, D model width).
"""

import importlib.util
from typing import cast

import torch
from torch import Tensor, nn

from lipsync_server.engines.flashhead.model.config import HeadConfig
from lipsync_server.models.kernels.attention import Attention
from lipsync_server.models.kernels.rope import RotaryTable
from lipsync_server.models.layers import fast
from lipsync_server.models.layers.cross_attention import CrossAttentionLayers, KeysValues, feed_forward
from lipsync_server.models.layers.fast import Pending, multiply, multiply_gelu
from lipsync_server.models.layers.linear_8bit import QuantizedLinear
from lipsync_server.models.layers.norms import LayerNorm
from lipsync_server.models.layers.self_attention import SelfAttentionLayers

if importlib.util.find_spec("triton") is not None:
    from lipsync_server.models.kernels import fused


class SelfAttention(SelfAttentionLayers):
    """Attention of all tokens to all tokens."""

    def forward(self, x: Tensor, rope: RotaryTable) -> Tensor:
        """x (N, D) -> (N, D) in x's type."""
        return self.mix(*self.queries_keys_values(x, rope))


class SoundAttention(CrossAttentionLayers):
    """Attention of each latent frame's tokens to that frame's sound; queries and keys are normed."""

    def project_context(self, sound: Tensor) -> KeysValues:
        """sound (T, tokens, D) -> keys and values for each latent frame, the same in all steps of a window."""
        return self.keys_values(sound)

    def forward(self, x: Tensor, sound: KeysValues) -> Tensor:
        """x (N, D) -> (N, D) in x's type; each latent frame's tokens attend to its own sound."""
        out = self.attend(self.queries(x).unflatten(0, (sound.k.shape[0], -1)), *sound)
        return cast(Tensor, self.o(out.flatten(0, 1).flatten(1)))


class Block(nn.Module):
    """norm -> self-attention -> sound -> feed-forward, with the time's shifts, scales and gates."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, config.eps, affine=False)
        self.self_attn = SelfAttention(config.dim, config.num_heads, config.eps)
        self.norm3 = LayerNorm(config.dim, config.eps, affine=True)
        self.cross_attn = SoundAttention(config.dim, config.num_heads, config.eps)
        self.norm2 = LayerNorm(config.dim, config.eps, affine=False)
        self.ffn = feed_forward(config.dim, config.ffn_dim)
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim), requires_grad=False)

    def forward(self, x: Tensor, e0: Tensor, sound: KeysValues, rope: RotaryTable) -> Tensor:
        """x (N, D); e0 (1, 6, D) float32. Returns x of the same shape and type."""
        dtype = x.dtype
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + e0)[0]
        y = self.self_attn((self.norm1(x) * (1 + scale1) + shift1).to(dtype), rope)
        x = (x + y.float() * gate1).to(dtype)
        x = x + self.cross_attn(self.norm3(x).to(dtype), sound)
        y = self.ffn((self.norm2(x) * (1 + scale2) + shift2).to(dtype))
        return cast(Tensor, x + y.float() * gate2).to(dtype)


def why_not_fast(block: Block, device: torch.device) -> str | None:
    """The reason why `fast_forward` cannot run this block on `device`; None if it can."""
    layers = (
        block.self_attn.qkv, block.self_attn.o, block.cross_attn.q, block.cross_attn.o, block.ffn[0], block.ffn[2],
    )  # fmt: skip
    return fast.why_not(layers, device)


def fast_forward(
    block: Block, pending: Pending, e0: Tensor, sound: KeysValues, rope: RotaryTable, attention: Attention
) -> Pending:
    """One block. Takes and returns hidden states (N, D) with an update that is not yet added (`Pending`).

    e0: (1, 6, D) float32, the timestep's shifts, scales and gates. The first fused kernel of the next block adds the
    pending update in the same pass over memory.
    """
    eps, part, first = block.norm1.eps, block.cross_attn, block.ffn[0]
    kind = first.kind if isinstance(first, QuantizedLinear) else None
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation + e0)[0]
    x, rows = fused.norm(pending.x, pending.y, pending.gate, scale1, shift1, eps, kind, plus_one=True)
    y = fast.self_attention(block.self_attn, rows, rope, attention)

    x, rows = fused.norm(x, y, gate1, *fast.affine(block.norm3), eps, kind)
    q = fused.heads_bf16(multiply(part.q, rows), part.norm_q.weight, part.norm_q.eps, part.heads, None)
    out = attention.kernel(q.unflatten(0, (sound.k.shape[0], -1)), *sound)
    y = multiply(part.o, fused.sum_of(out.flatten(0, 1).flatten(1), None, kind))

    x, rows = fused.norm(x, y, None, scale2, shift2, eps, kind, plus_one=True)
    return Pending(x, multiply(block.ffn[2], multiply_gelu(block.ffn[0], rows)), gate2)

"""Self-attention in 8 bits from bf16 queries, keys and values: round, choose tiles, attend.

SageAttention (https://arxiv.org/abs/2410.02367, version 2 https://arxiv.org/abs/2411.10958) observed that the keys of a
diffusion transformer are close to one vector far from zero, and that this vector uses up most of int8's range.
Attention does not change when the same vector c is subtracted from all keys, because softmax(q (k - c)^T) = softmax(q
k^T - q c^T), and q c^T is the same for all keys. For values, c is subtracted before and added to the result, because
the probabilities sum to 1. So keys and values are centred first, and only their differences from the centre are
rounded.

    queries  int8, one scale for each token and head
    keys     int8 after centring, one scale for each tile of 128 tokens and head
    values   bf16, or fp8 after centring with one scale for each head and channel

or, in the form "int8_both" for any GPU since Ampere, int8 throughout: one scale for each key, and one for each channel
and tile of 128 values.

Knows the order of these steps. Does not know the kernels inside: fused.py, tile_rounding.py and int8_rounding.py round,
attention_8bit.py or attention_int8.py attends. Needs Triton, which the rounding imports.
"""

from typing import NamedTuple

from torch import Tensor

from lipsync_server.models.kernels import attention_8bit, attention_int8, fused, int8_rounding, tile_rounding
from lipsync_server.models.kernels.rope import RotaryTable

CENTRE_STRIDE = 32


class RowNorm(NamedTuple):
    """RMS norm over whole rows: the weights (D,) for queries and keys, and `eps`, which prevents a division by zero."""

    q_weight: Tensor
    k_weight: Tensor
    eps: float


def centre_of(
    x: Tensor, heads: int, weight: Tensor | None = None, eps: float = 0.0, rope: RotaryTable | None = None
) -> Tensor:
    """A vector near the mean of x (N, heads * d) after norm and rotation: (heads, d) float32.

    The mean of every 32nd token (CENTRE_STRIDE); with fewer than 1,024 tokens all of them count.
    """
    if x.shape[0] >= CENTRE_STRIDE**2:
        x = x[::CENTRE_STRIDE]
        rope = None if rope is None else RotaryTable(rope.cos[::CENTRE_STRIDE], rope.sin[::CENTRE_STRIDE])
    return tile_rounding.mean_of_heads(x, weight, eps, heads, rope)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    form: str,
    density: float,
    norm: RowNorm | None = None,
    rope: RotaryTable | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(128)) v in 8 bits: (Nq, H, 128) bf16.

    q (Nq, H * 128), k (Nk, H * 128) bf16, any row stride; v (Nk, H, 128) bf16, any token stride. norm, rope: applied
    to queries and keys in the pass that rounds them. density: the share of key tiles that each block of queries attends
    to; 1 is all. form: "int8", "fp8" or "int8_both", see the module.
    """
    heads = v.shape[1]
    q_weight, k_weight, eps = norm if norm is not None else (None, None, 0.0)
    queries = fused.queries_int8(q, q_weight, eps, heads, rope)
    centre = centre_of(k, heads, k_weight, eps, rope)
    if form == "int8_both":
        rounded_keys = int8_rounding.keys_int8(k, k_weight, eps, heads, rope, centre)
        rounded_values = int8_rounding.values_int8(v, centre_of(v.flatten(1), heads))
        return attention_int8.attend(queries, rounded_keys, rounded_values, k.shape[0])
    keys = tile_rounding.keys_int8(k, k_weight, eps, heads, rope, centre)
    values = tile_rounding.values_fp8(v, centre_of(v.flatten(1), heads)) if form == "fp8" else v
    chosen = None if density == 1 else attention_8bit.choose_tiles(queries, keys, density)
    return attention_8bit.attend(queries, keys, values, chosen)

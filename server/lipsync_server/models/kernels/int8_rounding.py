"""Round keys and values to the form that attention_int8.py reads: int8 with local scales.

Keys are rounded after RMS norm and rotary embedding, with one scale for each token and head, as queries are
(fused.heads_int8). Values are transposed, with one scale for each channel and tile of 128 tokens. Does not know blocks.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

import torch
import triton
import triton.language as tl
from torch import Tensor

from lipsync_server.models.kernels.attention_8bit import HEAD_DIM, TILE, n_tiles
from lipsync_server.models.kernels.attention_int8 import Keys, Values
from lipsync_server.models.kernels.fused import heads_int8
from lipsync_server.models.kernels.rope import RotaryTable


# One program a tile of tokens and head: (x - centre) in int8 with a scale for each channel, transposed to (channel,
# token). Rows beyond the last token are 0.
@triton.jit
def _values(x, x_stride, centre, data, scale, n, length, tiles, TILE: tl.constexpr, DIM: tl.constexpr):
    tile, head = tl.program_id(0), tl.program_id(1)
    place = tl.arange(0, TILE)
    # attention_int8.KEY_ORDER, written as arithmetic.
    token = place // 64 * 64 + place // 2 % 8 * 8 + place // 16 % 4 * 2 + place % 2
    row = tile.to(tl.int64) * TILE + token
    channel = tl.arange(0, DIM)
    inside = (row < n)[:, None]
    value = tl.load(x + row[:, None] * x_stride + head * DIM + channel[None, :], inside, 0.0).to(tl.float32)
    value = tl.where(inside, value - tl.load(centre + head * DIM + channel)[None, :], 0.0)
    factor = tl.maximum(tl.max(tl.abs(value), 0), 1e-30) / 127.0
    tl.store(scale + (head * tiles + tile) * DIM + channel, factor)
    at = (head * DIM + channel).to(tl.int64)[:, None] * length + tile * TILE + place[None, :]
    tl.store(data + at, tl.trans(tl.floor(value / factor[None, :] + 0.5).to(tl.int8)))


def keys_int8(
    x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None, centre: Tensor
) -> Keys:
    """RMS norm over the row (with a weight), rotation (with `rope`), minus `centre`; int8, one scale a token and head.

    x (N, heads * 128) bf16, any row stride; weight (heads * 128,); centre (heads, 128) float32.
    """
    n_rows = n_tiles(x.shape[0]) * TILE
    return Keys(*heads_int8(x, weight, eps, heads, rope, centre, n_rows))


def values_int8(x: Tensor, centre: Tensor) -> Values:
    """x (N, H, 128) bf16, any token stride, minus `centre` (H, 128) float32, in int8, one scale a channel and tile."""
    n, heads, _ = x.shape
    tiles, centre = n_tiles(n), centre.contiguous()
    data = torch.empty(heads, HEAD_DIM, tiles * TILE, dtype=torch.int8, device=x.device)
    scale = torch.empty(heads, tiles, HEAD_DIM, dtype=torch.float32, device=x.device)
    _values[(tiles, heads)](
        x, x.stride(0), centre, data, scale, n, data.shape[2], tiles, TILE=TILE, DIM=HEAD_DIM, num_warps=8
    )
    return Values(data, scale, centre)

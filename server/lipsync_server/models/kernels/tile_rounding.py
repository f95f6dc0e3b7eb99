"""Round keys and values to the form that attention_8bit.py reads: 8 bits with a scale for each tile or channel.

Keys are normed, rotated, centred and rounded to int8 with one scale for each tile of 128 tokens and head. Values are
centred, transposed and rounded to fp8 with one scale for each head and channel. `mean_of_heads` computes the centre.
Does not know blocks; attention_rounded.py explains the centring.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

import torch
import triton
import triton.language as tl
from torch import Tensor

from lipsync_server.models.kernels.attention_8bit import HEAD_DIM, TILE, Keys, Values, n_tiles
from lipsync_server.models.kernels.fused import _rotated
from lipsync_server.models.kernels.rope import RotaryTable

# Heads that one program rounds in turn, so that it reads the rotary table once. The table is larger than a head.
_MOST_HEADS = 8
_MEAN_ROWS = 128


# One program a row: 1 / sqrt(mean of squares + eps), the factor of RMS norm. A tile of one head does not see whole
# rows.
@triton.jit
def _row_power(x, x_stride, power, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    value = tl.load(x + row * x_stride + columns, columns < width, 0.0).to(tl.float32)
    tl.store(power + row, tl.rsqrt(tl.sum(value * value, 0) / width + eps))


# One program a head: the mean of all rows after norm and rotation.
@triton.jit
def _mean(
    x, x_stride, power, weight, cos, sin, rope_stride, mean, n,
    ROWS: tl.constexpr, DIM: tl.constexpr, NORM: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    channel = tl.arange(0, DIM)
    pair = tl.arange(0, DIM // 2)
    total = tl.zeros((DIM,), tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n)[:, None]
        place = row.to(tl.int64)[:, None] * x_stride + head * DIM + channel[None, :]
        value = tl.load(x + place, inside, 0.0).to(tl.float32)
        if NORM:
            value *= tl.load(power + row, row < n, 0.0)[:, None]
            value *= tl.load(weight + head * DIM + channel).to(tl.float32)[None, :]
        if ROPE:
            angle = row.to(tl.int64)[:, None] * rope_stride + pair[None, :]
            value = _rotated(value, tl.load(cos + angle, inside, 0.0), tl.load(sin + angle, inside, 0.0), ROWS, DIM)
        total += tl.sum(value, 0)
    tl.store(mean + head * DIM + channel, total / n)


# One program a tile of tokens and some heads: RMS norm, rotary embedding, minus the centre, then int8 with one scale
# for each head's tile. Rows beyond the last are 0.
@triton.jit
def _tile_int8(
    x, x_stride, power, weight, cos, sin, centre, data, scale, n, heads, tiles,
    IN_TURN: tl.constexpr, TILE: tl.constexpr, DIM: tl.constexpr, NORM: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    tile, first = tl.program_id(0), tl.program_id(1) * IN_TURN
    row = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, DIM)
    inside = (row < n)[:, None]
    if NORM:
        factor_of_row = tl.load(power + row, row < n, 0.0)[:, None]
    if ROPE:
        pair = row[:, None] * (DIM // 2) + tl.arange(0, DIM // 2)[None, :]
        c, s = tl.load(cos + pair, inside, 0.0), tl.load(sin + pair, inside, 0.0)
    for head in range(first, first + IN_TURN):
        value = tl.load(x + row[:, None] * x_stride + head * DIM + channel[None, :], inside, 0.0).to(tl.float32)
        if NORM:
            value *= factor_of_row
            value *= tl.load(weight + head * DIM + channel).to(tl.float32)[None, :]
        if ROPE:
            value = _rotated(value, c, s, TILE, DIM)
        value = tl.where(inside, value - tl.load(centre + head * DIM + channel)[None, :], 0.0)
        factor = tl.maximum(tl.max(tl.max(tl.abs(value), 1), 0), 1e-30) / 127.0
        tl.store(scale + head * tiles + tile, factor)
        place = (row[:, None] * heads + head) * DIM + channel[None, :]
        tl.store(data + place, tl.floor(value * (1.0 / factor) + 0.5).to(tl.int8), inside)


# One program a tile and head: the largest |x - centre| of each channel in the tile.
@triton.jit
def _tile_spread(x, x_stride, centre, spread, n, heads, TILE: tl.constexpr, DIM: tl.constexpr):
    tile, head = tl.program_id(0), tl.program_id(1)
    row = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, DIM)
    inside = (row < n)[:, None]
    value = tl.load(x + row[:, None] * x_stride + head * DIM + channel[None, :], inside, 0.0).to(tl.float32)
    value = tl.where(inside, tl.abs(value - tl.load(centre + head * DIM + channel)[None, :]), 0.0)
    tl.store(spread + (tile * heads + head) * DIM + channel, tl.max(value, 0))


# One program a tile and head: (x - centre) / scale in fp8, transposed to (channel, token). 448 is fp8's largest number.
@triton.jit
def _tile_values(x, x_stride, centre, scale, data, n, length, TILE: tl.constexpr, DIM: tl.constexpr):
    tile, head = tl.program_id(0), tl.program_id(1)
    place = tl.arange(0, TILE)
    # The order of 32 keys in which the accumulators of the scores can be the left side of an fp8 product unchanged.
    token = place // 16 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2
    row = tile.to(tl.int64) * TILE + token
    channel = tl.arange(0, DIM)
    inside = (row < n)[:, None]
    value = tl.load(x + row[:, None] * x_stride + head * DIM + channel[None, :], inside, 0.0).to(tl.float32)
    value = (value - tl.load(centre + head * DIM + channel)[None, :]) / tl.load(scale + head * DIM + channel)[None, :]
    value = tl.where(inside, tl.minimum(tl.maximum(value, -448.0), 448.0), 0.0)
    at = (head * DIM + channel).to(tl.int64)[:, None] * length + tile * TILE + place[None, :]
    tl.store(data + at, tl.trans(value).to(tl.float8e4nv))


def mean_of_heads(x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None) -> Tensor:
    """The mean of all rows after RMS norm (with a weight) and rotation (with `rope`): (heads, D / heads) float32.

    x (N, D) bf16, any row stride; weight (D,); rope: N rows, any row stride.
    """
    n, width = x.shape
    mean = torch.empty(heads, width // heads, dtype=torch.float32, device=x.device)
    power = None if weight is None else row_power(x, eps)
    cos, sin = rope if rope is not None else (None, None)
    _mean[(heads,)](
        x, x.stride(0), power, weight, cos, sin, 0 if rope is None else rope.cos.stride(0), mean, n,
        ROWS=_MEAN_ROWS, DIM=width // heads, NORM=weight is not None, ROPE=rope is not None, num_warps=8,
    )  # fmt: skip
    return mean


def row_power(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean of squares + eps) of each row of x (N, D) bf16, any row stride: (N,) float32."""
    n, width = x.shape
    power = torch.empty(n, dtype=torch.float32, device=x.device)
    _row_power[(n,)](x, x.stride(0), power, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return power


def keys_int8(
    x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None, centre: Tensor
) -> Keys:
    """RMS norm (with a weight), rotation, minus `centre` (heads, 128) float32; int8, one scale for a tile and head.

    x (N, heads * 128) bf16, any row stride; weight (heads * 128,).
    """
    n = x.shape[0]
    data = torch.empty(n, heads, HEAD_DIM, dtype=torch.int8, device=x.device)
    scale = torch.empty(heads, n_tiles(n), dtype=torch.float32, device=x.device)
    power = None if weight is None else row_power(x, eps)
    cos, sin = rope if rope is not None else (None, None)
    in_turn = max(count for count in range(1, _MOST_HEADS + 1) if heads % count == 0)
    _tile_int8[(n_tiles(n), heads // in_turn)](
        x, x.stride(0), power, weight, cos, sin, centre.contiguous(), data, scale, n, heads, scale.shape[1],
        IN_TURN=in_turn, TILE=TILE, DIM=HEAD_DIM, NORM=weight is not None, ROPE=rope is not None, num_warps=16,
    )  # fmt: skip
    return Keys(data, scale)


def values_fp8(x: Tensor, centre: Tensor) -> Values:
    """x (N, H, 128) bf16, any token stride, minus `centre` (H, 128) float32, in fp8, one scale a head and channel."""
    n, heads, _ = x.shape
    tiles, centre = n_tiles(n), centre.contiguous()
    spread = torch.empty(tiles, heads, HEAD_DIM, dtype=torch.float32, device=x.device)
    _tile_spread[(tiles, heads)](x, x.stride(0), centre, spread, n, heads, TILE=TILE, DIM=HEAD_DIM, num_warps=8)
    scale = spread.amax(dim=0).clamp(min=1e-30) / 448.0
    data = torch.empty(heads, HEAD_DIM, tiles * TILE, dtype=torch.float8_e4m3fn, device=x.device)
    _tile_values[(tiles, heads)](
        x, x.stride(0), centre, scale, data, n, data.shape[2], TILE=TILE, DIM=HEAD_DIM, num_warps=8
    )
    return Values(data, scale, centre)

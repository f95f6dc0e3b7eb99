"""Triton kernels for the steps between two matrix products of a block, each in one pass over memory.

Between its products a block adds, norms, scales, rotates and rounds: little arithmetic on 33,600 tokens of 5,120
values, or 344 MB in bf16. As separate torch calls, each step reads and writes all values. A kernel here reads them
once, keeps them in registers as float32, and writes them once, rounded for the next product. Input: rows of bf16.
Output: rows of bf16, or of 8-bit values with a scale (rounding.py). The tests compare with the plain functions in
blocks.py, layers.py and linear_8bit.py. Does not know blocks or attention.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lipsync_server.models.kernels.attention_8bit import HEAD_DIM, TILE, Keys, Queries, Values, n_tiles
from lipsync_server.models.kernels.rope import RotaryTable
from lipsync_server.models.kernels.rounding import DTYPES, LARGEST
from lipsync_server.quantization import EightBit


class Rows(NamedTuple):
    """The left side of a matrix product: data (N, D) in fp8 or int8 with scale (N, 1) float32, or in bf16 with none."""

    data: Tensor
    scale: Tensor | None = None

    @property
    def kind(self) -> EightBit | None:
        """The 8-bit type of the rows; None is bf16."""
        if self.scale is None:
            return None
        return "int8" if self.data.dtype == torch.int8 else "fp8"


# Write a row rounded for the next product: bf16 where LARGEST is 0, else 8 bits with the scale max |values| / LARGEST
# (127 is int8, which is rounded to the nearest whole number; 448 is fp8, which the conversion rounds).
@triton.jit
def _store(values, mask, data, scale, row, columns, width, LARGEST: tl.constexpr):
    at = data + row * width + columns
    if LARGEST == 0:
        tl.store(at, values.to(tl.bfloat16), mask)
    else:
        factor = tl.maximum(tl.max(tl.abs(values), 0), 1e-30) / LARGEST
        tl.store(scale + row, factor)
        if LARGEST == 127:
            tl.store(at, tl.floor(values / factor + 0.5).to(tl.int8), mask)
        else:
            tl.store(at, (values / factor).to(tl.float8e4nv), mask)


# One program a row: x_out = bf16(x + y * gate), and the layer norm of x_out, times `multiply` plus `add`, rounded.
# A row must fit one block, so BLOCK is the next power of two from the width on, and the columns beyond are masked.
@triton.jit
def _norm(
    x, y, gate, multiply, add, x_out, data, scale, width, eps,
    BLOCK: tl.constexpr, HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    value = tl.load(x + row * width + columns, mask, 0.0).to(tl.float32)
    if HAS_Y:
        update = tl.load(y + row * width + columns, mask, 0.0).to(tl.float32)
        if HAS_GATE:
            update *= tl.load(gate + columns, mask, 0.0)
        rounded = (value + update).to(tl.bfloat16)
        tl.store(x_out + row * width + columns, rounded, mask)
        value = rounded.to(tl.float32)
    centred = tl.where(mask, value - tl.sum(value, 0) / width, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    normed = normed * tl.load(multiply + columns, mask, 0.0) + tl.load(add + columns, mask, 0.0)
    _store(normed, mask, data, scale, row, columns, width, LARGEST)


# One program a row: tanh-GELU, 0.5 v (1 + tanh u) with u = sqrt(2 / pi) (v + 0.044715 v^3), as v / (1 + exp(-2 u)).
# The constant is 2 sqrt(2 / pi).
@triton.jit
def _gelu(x, data, scale, width, BLOCK: tl.constexpr, LARGEST: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    value = tl.load(x + row * width + columns, mask, 0.0).to(tl.float32)
    inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
    _store(value / (1.0 + tl.exp(-inner)), mask, data, scale, row, columns, width, LARGEST)


# One program a row: x + y, rounded.
@triton.jit
def _sum(x, y, data, scale, width, BLOCK: tl.constexpr, HAS_Y: tl.constexpr, LARGEST: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    value = tl.load(x + row * width + columns, mask, 0.0).to(tl.float32)
    if HAS_Y:
        value += tl.load(y + row * width + columns, mask, 0.0).to(tl.float32)
    _store(value, mask, data, scale, row, columns, width, LARGEST)


# One program a token, all heads of it: RMS norm over the whole row, rotary embedding, minus the centre, then bf16 or
# int8 with a scale for each head. The rotation turns the pairs (2i, 2i + 1) of each head (rope.py).
@triton.jit
def _heads(
    x, x_stride, weight, cos, sin, centre, data, scale, scale_stride, eps,
    HEADS: tl.constexpr, HEADS_BLOCK: tl.constexpr, DIM: tl.constexpr,
    NORM: tl.constexpr, ROPE: tl.constexpr, CENTRED: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS_BLOCK)
    places = head[:, None] * DIM + tl.arange(0, DIM)[None, :]
    mask = (head < HEADS)[:, None]
    value = tl.load(x + row * x_stride + places, mask, 0.0).to(tl.float32)
    if NORM:
        power = tl.sum(tl.sum(value * value, 1), 0) / (HEADS * DIM)
        value = value * tl.rsqrt(power + eps) * tl.load(weight + places, mask, 0.0).to(tl.float32)
    if ROPE:
        pair = tl.arange(0, DIM // 2)
        c = tl.load(cos + row * (DIM // 2) + pair)[None, :]
        s = tl.load(sin + row * (DIM // 2) + pair)[None, :]
        real, imaginary = tl.split(tl.reshape(value, (HEADS_BLOCK, DIM // 2, 2)))
        value = tl.reshape(tl.join(real * c - imaginary * s, real * s + imaginary * c), (HEADS_BLOCK, DIM))
    if CENTRED:
        value -= tl.load(centre + places, mask, 0.0)
    if INT8:
        factor = tl.maximum(tl.max(tl.abs(value), 1), 1e-30) / 127.0
        tl.store(scale + head * scale_stride + row, factor, head < HEADS)
        tl.store(data + row * (HEADS * DIM) + places, tl.floor(value / factor[:, None] + 0.5).to(tl.int8), mask)
    else:
        tl.store(data + row * (HEADS * DIM) + places, value.to(tl.bfloat16), mask)


# One program a row: 1 / sqrt(mean of squares + eps), the factor of RMS norm. A tile of one head does not see whole
# rows.
@triton.jit
def _row_power(x, x_stride, power, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    value = tl.load(x + row * x_stride + columns, columns < width, 0.0).to(tl.float32)
    tl.store(power + row, tl.rsqrt(tl.sum(value * value, 0) / width + eps))


# One program a tile of tokens and head: as _heads, with one int8 scale for the whole tile. Rows beyond the last are 0.
@triton.jit
def _tile_int8(
    x, x_stride, power, weight, cos, sin, centre, data, scale, n, heads, tiles,
    TILE: tl.constexpr, DIM: tl.constexpr, NORM: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    row = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, DIM)
    inside = (row < n)[:, None]
    value = tl.load(x + row[:, None] * x_stride + head * DIM + channel[None, :], inside, 0.0).to(tl.float32)
    if NORM:
        value *= tl.load(power + row, row < n, 0.0)[:, None]
        value *= tl.load(weight + head * DIM + channel).to(tl.float32)[None, :]
    if ROPE:
        pair = row[:, None] * (DIM // 2) + tl.arange(0, DIM // 2)[None, :]
        c, s = tl.load(cos + pair, inside, 0.0), tl.load(sin + pair, inside, 0.0)
        real, imaginary = tl.split(tl.reshape(value, (TILE, DIM // 2, 2)))
        value = tl.reshape(tl.join(real * c - imaginary * s, real * s + imaginary * c), (TILE, DIM))
    value = tl.where(inside, value - tl.load(centre + head * DIM + channel)[None, :], 0.0)
    factor = tl.maximum(tl.max(tl.max(tl.abs(value), 1), 0), 1e-30) / 127.0
    tl.store(scale + head * tiles + tile, factor)
    place = (row[:, None] * heads + head) * DIM + channel[None, :]
    tl.store(data + place, tl.floor(value / factor + 0.5).to(tl.int8), inside)


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


def norm(
    x: Tensor, y: Tensor | None, gate: Tensor | None, multiply: Tensor, add: Tensor, eps: float, kind: EightBit | None
) -> tuple[Tensor, Rows]:
    """x + y * gate (y, gate optional), layer norm, * multiply + add, rounded to `kind` per row or to bf16.

    x, y (N, D) bf16; gate, multiply, add (D,) float32. Returns the new x (bf16) and the rounded norm.
    """
    rows = _rows_like(x, kind)
    x_out = x if y is None else torch.empty_like(x)
    n, width = x.shape
    _norm[(n,)](
        x, y, gate, multiply, add, x_out, *rows, width, eps, BLOCK=triton.next_power_of_2(width),
        HAS_Y=y is not None, HAS_GATE=gate is not None, LARGEST=_largest(kind), num_warps=8,
    )  # fmt: skip
    return x_out, rows


def gelu(x: Tensor, kind: EightBit) -> Rows:
    """tanh-GELU of x (N, D) bf16, rounded to `kind` per row."""
    rows, block = _rows_like(x, kind), triton.next_power_of_2(x.shape[1])
    _gelu[(x.shape[0],)](x, *rows, x.shape[1], BLOCK=block, LARGEST=_largest(kind), num_warps=16)
    return rows


def sum_of(x: Tensor, y: Tensor | None, kind: EightBit | None) -> Rows:
    """x + y (N, D) bf16, y optional, rounded to `kind` per row or to bf16."""
    if y is None and kind is None:
        return Rows(x)
    rows, block = _rows_like(x, kind), triton.next_power_of_2(x.shape[1])
    _sum[(x.shape[0],)](
        x, y, *rows, x.shape[1], BLOCK=block, HAS_Y=y is not None, LARGEST=_largest(kind), num_warps=8
    )  # fmt: skip
    return rows


def heads_bf16(x: Tensor, weight: Tensor, eps: float, heads: int, rope: RotaryTable | None) -> Tensor:
    """RMS norm over the row and, with `rope`, rotation. x (N, D) bf16, any row stride -> (N, heads, D / heads)."""
    n, width = x.shape
    out = torch.empty(n, heads, width // heads, dtype=torch.bfloat16, device=x.device)
    cos, sin = rope if rope is not None else (None, None)
    _heads[(n,)](
        x, x.stride(0), weight, cos, sin, None, out, None, 0, eps,
        HEADS=heads, HEADS_BLOCK=triton.next_power_of_2(heads), DIM=width // heads,
        NORM=True, ROPE=rope is not None, CENTRED=False, INT8=False, num_warps=8,
    )  # fmt: skip
    return out


def heads_int8(
    x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None,
    centre: Tensor | None = None, n_rows: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As heads_bf16 (no norm without a weight), minus `centre`, rounded to int8 with one scale for each token and head.

    centre: (heads, D / heads) float32. n_rows: rows to allocate; rows after the last token are undefined. Returns
    data (n_rows, heads, D / heads) and scale (heads, n_rows) float32.
    """
    n, width = x.shape
    rows = n if n_rows is None else n_rows
    data = torch.empty(rows, heads, width // heads, dtype=torch.int8, device=x.device)
    scale = torch.empty(heads, rows, dtype=torch.float32, device=x.device)
    cos, sin = rope if rope is not None else (None, None)
    _heads[(n,)](
        x, x.stride(0), weight, cos, sin, None if centre is None else centre.contiguous(), data, scale, rows, eps,
        HEADS=heads, HEADS_BLOCK=triton.next_power_of_2(heads), DIM=width // heads,
        NORM=weight is not None, ROPE=rope is not None, CENTRED=centre is not None, INT8=True, num_warps=8,
    )  # fmt: skip
    return data, scale


def queries_int8(x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None) -> Queries:
    """Queries for 8-bit attention: heads_int8."""
    return Queries(*heads_int8(x, weight, eps, heads, rope))


def keys_int8(
    x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None, centre: Tensor
) -> Keys:
    """As heads_bf16 (no norm without a weight), minus `centre` (heads, 128) float32; int8, a scale a tile and head."""
    n, width = x.shape
    data = torch.empty(n, heads, HEAD_DIM, dtype=torch.int8, device=x.device)
    scale = torch.empty(heads, n_tiles(n), dtype=torch.float32, device=x.device)
    power = None
    if weight is not None:
        power = torch.empty(n, dtype=torch.float32, device=x.device)
        _row_power[(n,)](x, x.stride(0), power, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=8)
    cos, sin = rope if rope is not None else (None, None)
    _tile_int8[(n_tiles(n), heads)](
        x, x.stride(0), power, weight, cos, sin, centre.contiguous(), data, scale, n, heads, scale.shape[1],
        TILE=TILE, DIM=HEAD_DIM, NORM=weight is not None, ROPE=rope is not None, num_warps=8,
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


def _largest(kind: EightBit | None) -> float:
    """The largest number of an 8-bit type; 0 stands for bf16 in the kernels."""
    return 0.0 if kind is None else LARGEST[kind]


def _rows_like(x: Tensor, kind: EightBit | None) -> Rows:
    """Uninitialised rows of x's shape: bf16, or 8-bit data with a scale for each row."""
    if kind is None:
        return Rows(torch.empty(x.shape, dtype=torch.bfloat16, device=x.device))
    data = torch.empty(x.shape, dtype=DTYPES[kind], device=x.device)
    return Rows(data, torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device))

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

from lipsync_server.models.kernels.attention_8bit import Queries
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


# A row has 5,120 or 1,536 values, and Triton's blocks are powers of two. One block of 8,192 would leave more than a
# third of the threads without work, so a row is computed in two pieces, of which only the second has masked columns.


@triton.jit
def _read(at, mask):
    values = tl.load(at) if mask is None else tl.load(at, mask, 0.0)
    return values.to(tl.float32)


# Write values rounded for the next product: bf16 where LARGEST is 0, else 8 bits with `factor` = max |row| / LARGEST
# (127 is int8, which is rounded to the nearest whole number; 448 is fp8, which the conversion rounds).
@triton.jit
def _write(values, at, mask, factor, LARGEST: tl.constexpr):
    if LARGEST == 0:
        tl.store(at, values.to(tl.bfloat16), mask)
    elif LARGEST == 127:
        tl.store(at, tl.floor(values * (1.0 / factor) + 0.5).to(tl.int8), mask)
    else:
        tl.store(at, (values * (1.0 / factor)).to(tl.float8e4nv), mask)


@triton.jit
def _store(values, mask, data, scale, row, columns, width, LARGEST: tl.constexpr):
    factor = tl.maximum(tl.max(tl.abs(values), 0), 1e-30) / LARGEST if LARGEST != 0 else 1.0
    if LARGEST != 0:
        tl.store(scale + row, factor)
    _write(values, data + row * width + columns, mask, factor, LARGEST)


# One piece of x + y * gate in bf16, stored in x_out, as float32.
@triton.jit
def _updated(x, y, gate, x_out, columns, mask, HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr):
    value = _read(x + columns, mask)
    if HAS_Y:
        update = _read(y + columns, mask)
        if HAS_GATE:
            update *= _read(gate + columns, mask)
        rounded = (value + update).to(tl.bfloat16)
        tl.store(x_out + columns, rounded, mask)
        value = rounded.to(tl.float32)
    return value


# One program a row: x_out = bf16(x + y * gate), and the layer norm of x_out, times `multiply` (plus 1 with PLUS_ONE)
# plus `add`, rounded. FIRST and SECOND are the columns of the two pieces.
@triton.jit
def _norm(
    x, y, gate, multiply, add, x_out, data, scale, width, eps,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
    HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr, PLUS_ONE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = row * width
    at_a, at_b = tl.arange(0, FIRST), FIRST + tl.arange(0, SECOND)
    mask = at_b < width
    a = _updated(x + start, y + start, gate, x_out + start, at_a, None, HAS_Y, HAS_GATE)
    b = _updated(x + start, y + start, gate, x_out + start, at_b, mask, HAS_Y, HAS_GATE)
    mean = (tl.sum(a, 0) + tl.sum(b, 0)) / width
    a -= mean
    b = tl.where(mask, b - mean, 0.0)
    power = tl.rsqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / width + eps)
    multiply_a, multiply_b = _read(multiply + at_a, None), _read(multiply + at_b, mask)
    if PLUS_ONE:
        multiply_a += 1.0
        multiply_b += 1.0
    a = a * power * multiply_a + _read(add + at_a, None)
    b = b * power * multiply_b + _read(add + at_b, mask)
    factor = 1.0
    if LARGEST != 0:
        factor = tl.maximum(tl.maximum(tl.max(tl.abs(a), 0), tl.max(tl.abs(b), 0)), 1e-30) / LARGEST
        tl.store(scale + row, factor)
    _write(a, data + start + at_a, None, factor, LARGEST)
    _write(b, data + start + at_b, mask, factor, LARGEST)


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


# Turn the pairs (2i, 2i + 1) of each row of value (ROWS, DIM) by angles (rope.py). cos, sin: (1 or ROWS, DIM / 2).
@triton.jit
def _rotated(value, cos, sin, ROWS: tl.constexpr, DIM: tl.constexpr):
    real, imaginary = tl.split(tl.reshape(value, (ROWS, DIM // 2, 2)))
    turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    return tl.reshape(turned, (ROWS, DIM))


# Write some heads of a token, minus their centre: bf16, or int8 with a scale for each head.
@triton.jit
def _write_heads(
    value, centre, data, scale, head, places, inside, mask, CENTRED: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    if CENTRED:
        value -= _read(centre + places, mask)
    if INT8:
        factor = tl.maximum(tl.max(tl.abs(value), 1), 1e-30) / 127.0
        tl.store(scale + head, factor, inside)
        tl.store(data + places, tl.floor(value * (1.0 / factor)[:, None] + 0.5).to(tl.int8), mask)
    else:
        tl.store(data + places, value.to(tl.bfloat16), mask)


# One program a token, all heads of it in two pieces: RMS norm over the whole row, rotary embedding, minus the centre,
# then bf16 or int8 with a scale for each head.
@triton.jit
def _heads(
    x, x_stride, weight, cos, sin, centre, data, scale, scale_stride, eps,
    HEADS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, DIM: tl.constexpr,
    NORM: tl.constexpr, ROPE: tl.constexpr, CENTRED: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head_a, head_b = tl.arange(0, FIRST), FIRST + tl.arange(0, SECOND)
    places_a = head_a[:, None] * DIM + tl.arange(0, DIM)[None, :]
    places_b = head_b[:, None] * DIM + tl.arange(0, DIM)[None, :]
    inside = head_b < HEADS
    mask = inside[:, None]
    a, b = _read(x + row * x_stride + places_a, None), _read(x + row * x_stride + places_b, mask)
    if NORM:
        power = (tl.sum(tl.sum(a * a, 1), 0) + tl.sum(tl.sum(b * b, 1), 0)) / (HEADS * DIM)
        a = a * tl.rsqrt(power + eps) * _read(weight + places_a, None)
        b = b * tl.rsqrt(power + eps) * _read(weight + places_b, mask)
    if ROPE:
        pair = row * (DIM // 2) + tl.arange(0, DIM // 2)
        c, s = tl.load(cos + pair)[None, :], tl.load(sin + pair)[None, :]
        a, b = _rotated(a, c, s, FIRST, DIM), _rotated(b, c, s, SECOND, DIM)
    out = data + row * (HEADS * DIM)
    _write_heads(a, centre, out, scale + row, head_a * scale_stride, places_a, None, None, CENTRED, INT8)
    _write_heads(b, centre, out, scale + row, head_b * scale_stride, places_b, inside, mask, CENTRED, INT8)


def norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    multiply: Tensor,
    add: Tensor,
    eps: float,
    kind: EightBit | None,
    *,
    plus_one: bool = False,
) -> tuple[Tensor, Rows]:
    """x + y * gate (y, gate optional), layer norm, * multiply + add, rounded to `kind` per row or to bf16.

    x, y (N, D) bf16; gate, multiply, add (D,) of any float type. plus_one: multiply with 1 + multiply. Returns the new
    x (bf16) and the rounded norm.
    """
    rows = _rows_like(x, kind)
    x_out = x if y is None else torch.empty_like(x)
    n, width = x.shape
    first, second = _pieces(width)
    _norm[(n,)](
        x, x if y is None else y, gate, multiply, add, x_out, *rows, width, eps, FIRST=first, SECOND=second,
        HAS_Y=y is not None, HAS_GATE=gate is not None, PLUS_ONE=plus_one, LARGEST=_largest(kind), num_warps=4,
    )  # fmt: skip
    return x_out, rows


def gelu(x: Tensor, kind: EightBit) -> Rows:
    """tanh-GELU of x (N, D) bf16, rounded to `kind` per row."""
    rows, block = _rows_like(x, kind), triton.next_power_of_2(x.shape[1])
    _gelu[(x.shape[0],)](x, *rows, x.shape[1], BLOCK=block, LARGEST=_largest(kind), num_warps=8)
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
    first, second = _pieces(heads)
    _heads[(n,)](
        x, x.stride(0), weight, cos, sin, None, out, out, 0, eps,
        HEADS=heads, FIRST=first, SECOND=second, DIM=width // heads,
        NORM=True, ROPE=rope is not None, CENTRED=False, INT8=False, num_warps=4,
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
    first, second = _pieces(heads)
    _heads[(n,)](
        x, x.stride(0), weight, cos, sin, None if centre is None else centre.contiguous(), data, scale, rows, eps,
        HEADS=heads, FIRST=first, SECOND=second, DIM=width // heads,
        NORM=weight is not None, ROPE=rope is not None, CENTRED=centre is not None, INT8=True, num_warps=4,
    )  # fmt: skip
    return data, scale


def queries_int8(x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None) -> Queries:
    """Queries for 8-bit attention: heads_int8."""
    return Queries(*heads_int8(x, weight, eps, heads, rope))


def _pieces(width: int) -> tuple[int, int]:
    """The two powers of two that hold a row (or its heads): 5,120 is 4,096 + 1,024; only the second may be too long."""
    first = 1 << max(0, (width - 1).bit_length() - 1)
    return first, triton.next_power_of_2(max(1, width - first))


def _largest(kind: EightBit | None) -> float:
    """The largest number of an 8-bit type; 0 stands for bf16 in the kernels."""
    return 0.0 if kind is None else LARGEST[kind]


def _rows_like(x: Tensor, kind: EightBit | None) -> Rows:
    """Uninitialised rows of x's shape: bf16, or 8-bit data with a scale for each row."""
    if kind is None:
        return Rows(torch.empty(x.shape, dtype=torch.bfloat16, device=x.device))
    data = torch.empty(x.shape, dtype=DTYPES[kind], device=x.device)
    return Rows(data, torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device))

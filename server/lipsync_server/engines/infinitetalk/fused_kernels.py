"""Triton kernels that do in one pass over memory what lies between two matrix products of a block.

Knows rows of bf16 in, rows of 8-bit values with a scale (or bf16) out. Does not know blocks or attention. Each has
its plain counterpart in blocks.py, layers.py and quant.py, against which it is tested.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_int8 import padded
from .rope import RotaryTable


class Rounded(NamedTuple):
    """fp8 data (N, D) and scale (N, 1) float32."""

    data: Tensor
    scale: Tensor


@triton.jit
def _store_fp8(values, mask, data, scale, row, columns, width):
    largest = tl.max(tl.abs(values), 0)
    factor = tl.maximum(largest, 1e-30) / 448.0
    tl.store(scale + row, factor)
    tl.store(data + row * width + columns, (values / factor).to(tl.float8e4nv), mask)


@triton.jit
def _norm_fp8(
    x, y, gate, multiply, add, x_out, data, scale, width, eps,
    BLOCK: tl.constexpr, HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr,
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
    _store_fp8(normed, mask, data, scale, row, columns, width)


@triton.jit
def _gelu_fp8(x, data, scale, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    value = tl.load(x + row * width + columns, mask, 0.0).to(tl.float32)
    inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
    _store_fp8(value / (1.0 + tl.exp(-inner)), mask, data, scale, row, columns, width)


@triton.jit
def _sum_fp8(x, y, data, scale, width, BLOCK: tl.constexpr, HAS_Y: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    value = tl.load(x + row * width + columns, mask, 0.0).to(tl.float32)
    if HAS_Y:
        value += tl.load(y + row * width + columns, mask, 0.0).to(tl.float32)
    _store_fp8(value, mask, data, scale, row, columns, width)


@triton.jit
def _heads(
    x, x_stride, weight, cos, sin, centre, data, scale, scale_stride, eps,
    HEADS: tl.constexpr, HEADS_BLOCK: tl.constexpr, DIM: tl.constexpr,
    NORM: tl.constexpr, ROPE: tl.constexpr, CENTRE: tl.constexpr, INT8: tl.constexpr,
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
    if CENTRE:
        value -= tl.load(centre + places, mask, 0.0)
    if INT8:
        factor = tl.maximum(tl.max(tl.abs(value), 1), 1e-30) / 127.0
        tl.store(scale + head * scale_stride + row, factor, head < HEADS)
        tl.store(data + row * (HEADS * DIM) + places, tl.floor(value / factor[:, None] + 0.5).to(tl.int8), mask)
    else:
        tl.store(data + row * (HEADS * DIM) + places, value.to(tl.bfloat16), mask)


def norm_fp8(
    x: Tensor, y: Tensor | None, gate: Tensor | None, multiply: Tensor, add: Tensor, eps: float
) -> tuple[Tensor, Rounded]:
    """x + y * gate (y, gate optional), layer norm, * multiply + add, rounded to fp8 per row.

    x, y (N, D) bf16; gate, multiply, add (D,) float32. Returns the new x (bf16) and the rounded norm.
    """
    data, scale = _fp8_like(x)
    x_out = x if y is None else torch.empty_like(x)
    n, width = x.shape
    _norm_fp8[(n,)](
        x, y, gate, multiply, add, x_out, data, scale, width, eps,
        BLOCK=triton.next_power_of_2(width), HAS_Y=y is not None, HAS_GATE=gate is not None, num_warps=8,
    )  # fmt: skip
    return x_out, Rounded(data, scale)


def gelu_fp8(x: Tensor) -> Rounded:
    """tanh-GELU of x (N, D) bf16, rounded to fp8 per row."""
    data, scale = _fp8_like(x)
    _gelu_fp8[(x.shape[0],)](x, data, scale, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=16)
    return Rounded(data, scale)


def sum_fp8(x: Tensor, y: Tensor | None = None) -> Rounded:
    """x + y (N, D) bf16, rounded to fp8 per row."""
    data, scale = _fp8_like(x)
    block = triton.next_power_of_2(x.shape[1])
    _sum_fp8[(x.shape[0],)](x, y, data, scale, x.shape[1], BLOCK=block, HAS_Y=y is not None, num_warps=8)
    return Rounded(data, scale)


def heads_bf16(x: Tensor, weight: Tensor, eps: float, heads: int, rope: RotaryTable | None) -> Tensor:
    """RMS norm over the row and, with `rope`, rotation. x (N, D) bf16, any row stride -> (N, heads, D / heads)."""
    n, width = x.shape
    out = torch.empty(n, heads, width // heads, dtype=torch.bfloat16, device=x.device)
    cos, sin = rope if rope is not None else (None, None)
    _heads[(n,)](
        x, x.stride(0), weight, cos, sin, None, out, None, 0, eps,
        HEADS=heads, HEADS_BLOCK=triton.next_power_of_2(heads), DIM=width // heads,
        NORM=True, ROPE=rope is not None, CENTRE=False, INT8=False, num_warps=8,
    )  # fmt: skip
    return out


def heads_int8(
    x: Tensor, weight: Tensor | None, eps: float, heads: int, rope: RotaryTable | None, centre: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As heads_bf16, less `centre` (heads, head_dim) float32, rounded to int8 per token and head; no weight, no norm.

    Returns data (N, heads, head_dim) int8 and scale (heads, N rounded up to whole tiles) float32.
    """
    n, width = x.shape
    data = torch.empty(n, heads, width // heads, dtype=torch.int8, device=x.device)
    scale = torch.ones(heads, padded(n), dtype=torch.float32, device=x.device)
    cos, sin = rope if rope is not None else (None, None)
    _heads[(n,)](
        x, x.stride(0), weight, cos, sin, centre, data, scale, scale.stride(0), eps,
        HEADS=heads, HEADS_BLOCK=triton.next_power_of_2(heads), DIM=width // heads,
        NORM=weight is not None, ROPE=rope is not None, CENTRE=centre is not None, INT8=True, num_warps=8,
    )  # fmt: skip
    return data, scale


def _fp8_like(x: Tensor) -> Rounded:
    data = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    return Rounded(data, torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device))

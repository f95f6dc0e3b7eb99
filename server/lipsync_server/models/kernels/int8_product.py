"""An int8 matrix product with a bf16 result: scales, bias and rounding are part of the product's kernel.

Products of int8 numbers are summed in 32-bit integers. torch._int_mm writes these integers (twice the memory of bf16),
and a second kernel reads, scales and rounds them. Here each tile of the sum is scaled while it is in registers:

    out[m, n] = bf16(sum_k x[m, k] w[n, k] * x_scale[m] * w_scale[n] + bias[n])

A tile is the part of `out` that one block of threads computes. The tile does not change the result, not in one bit,
because sums of integers are exact. Which tile is fastest depends on the card, so it is measured (product_8bit.py).
Knows rows of int8 with a scale each, on both sides. Does not know layers.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

import torch
import triton
import triton.language as tl
from torch import Tensor

TILES = {
    "128x128x64": (128, 128, 64, 4, 3),
    "128x256x64": (128, 256, 64, 8, 4),
    "128x256x128": (128, 256, 128, 8, 4),
}
"""Rows, columns and depth of a tile, warps and stages. The last one needs the shared memory of A100 or H100."""
ANY_CARD = "128x128x64"
"""A tile that runs on every GPU since Ampere."""


def least_shared_bytes(tile: str) -> int:
    """Shared memory that the tile's kernel needs at least: all stages but one hold a part of both matrices."""
    rows, columns, depth, _, stages = TILES[tile]
    return (stages - 1) * (rows + columns) * depth


# This many row blocks are computed one after the other with the same column block, which then stays in the L2 cache.
_GROUP = 8


# One program a tile of `out`. Tiles are numbered so that _GROUP row tiles share a column tile one after the other.
@triton.jit
def _product(
    x, w, x_scale, w_scale, bias, out, m, n, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row_tiles, column_tiles = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    group = tile // (GROUP * column_tiles)
    first = group * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    row_tile = first + tile % (GROUP * column_tiles) % size
    column_tile = tile % (GROUP * column_tiles) // size
    row = row_tile * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # Rows and columns beyond the edge read the first rows again; their results are not stored.
    x_at = x + (row % m).to(tl.int64)[:, None] * k + depth[None, :]
    w_at = w + (column % n).to(tl.int64)[None, :] * k + depth[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, k, DEPTH):
        inside = depth < k - start
        left = tl.load(x_at, inside[None, :], 0)
        right = tl.load(w_at, inside[:, None], 0)
        total = tl.dot(left, right, total, out_dtype=tl.int32)
        x_at += DEPTH
        w_at += DEPTH
    scaled = total.to(tl.float32) * tl.load(x_scale + row, row < m, 0.0)[:, None]
    scaled *= tl.load(w_scale + column, column < n, 0.0)[None, :]
    if HAS_BIAS:
        scaled += tl.load(bias + column, column < n, 0.0).to(tl.float32)[None, :]
    place = row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(out + place, scaled.to(tl.bfloat16), (row < m)[:, None] & (column < n)[None, :])


@torch.library.custom_op("lipsync::int8_product", mutates_args=())
def int8_product(
    x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, tile: str = ANY_CARD
) -> Tensor:
    """(x * x_scale) (w * w_scale)^T + bias in bf16.

    x (M, K) and w (N, K) int8, contiguous; x_scale (M, 1) and w_scale (N, 1) float32; bias (N,). tile: one of TILES.
    """
    return launch(x, w, x_scale, w_scale, bias, tile)


def launch(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, tile: str = ANY_CARD) -> Tensor:
    """int8_product without torch's dispatch."""
    (m, k), n = x.shape, w.shape[0]
    out = torch.empty(m, n, dtype=torch.bfloat16, device=x.device)
    rows, columns, depth, warps, stages = TILES[tile]
    _product[(triton.cdiv(m, rows) * triton.cdiv(n, columns),)](
        x, w, x_scale, w_scale, bias, out, m, n, k, ROWS=rows, COLUMNS=columns, DEPTH=depth, GROUP=_GROUP,
        HAS_BIAS=bias is not None, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@int8_product.register_fake
def _(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, tile: str = ANY_CARD) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0], dtype=torch.bfloat16)

"""An int8 matrix product with a bf16 result: scales, bias and rounding are part of the product's kernel.

Products of int8 numbers are summed in 32-bit integers. torch._int_mm writes these integers (twice the memory of bf16),
and a second kernel reads, scales and rounds them. Here each tile of the sum is scaled while it is in registers:

    out[m, n] = bf16(sum_k x[m, k] w[n, k] * x_scale[m] * w_scale[n] + bias[n])

Knows rows of int8 with a scale each, on both sides. Does not know layers.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows, columns and depth of a tile, warps and stages that fit the shared memory: Hopper's, and any GPU's since Ampere.
_HOPPER = (128, 256, 128, 8, 4)
_OTHER = (128, 128, 64, 4, 3)
# This many row blocks are computed one after the other with the same column block, which then stays in the L2 cache.
_GROUP = 8


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
def int8_product(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    """(x * x_scale) (w * w_scale)^T + bias in bf16.

    x (M, K) and w (N, K) int8, contiguous; x_scale (M, 1) and w_scale (N, 1) float32; bias (N,).
    """
    return launch(x, w, x_scale, w_scale, bias)


def launch(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    """int8_product without torch's dispatch.

    Triton's driver names the GPU, because ahead_of_time.py runs without one.
    """
    (m, k), n = x.shape, w.shape[0]
    out = torch.empty(m, n, dtype=torch.bfloat16, device=x.device)
    is_hopper = triton.runtime.driver.active.get_current_target().arch // 10 == 9
    rows, columns, depth, warps, stages = _HOPPER if is_hopper else _OTHER
    _product[(triton.cdiv(m, rows) * triton.cdiv(n, columns),)](
        x, w, x_scale, w_scale, bias, out, m, n, k, ROWS=rows, COLUMNS=columns, DEPTH=depth, GROUP=_GROUP,
        HAS_BIAS=bias is not None, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@int8_product.register_fake
def _(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0], dtype=torch.bfloat16)

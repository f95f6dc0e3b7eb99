"""Triton kernels with the functions of ops.py, each one pass over memory, for channels-last values on a GPU.

Bias, norm, SiLU, padding and history between two convolutions are little arithmetic, but as separate torch calls each
of them reads and writes the whole video. A kernel here reads it once and writes it once. A row is the C channels of one
pixel. ops.py explains every argument, and the tests compare with ops.py. Rows in another memory order are copied first.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

import triton
import triton.language as tl
from torch import Tensor

from lipsync_server.models.wan_vae.ops import FRAMES_BEFORE

# Number of values of one Triton program: few enough for its registers, and enough to use the memory's full speed.
_TILE = 4096


# One program a tile of rows: writes the next convolution's input, which is two frames of history, then the new frames
# with EDGE columns of zeros on both sides, each row SiLU(gamma * z / |z|) with z = x + bias.
@triton.jit
def _norm_silu(
    x, gamma, bias, history, frames, kept, n_rows, n_before, n_history, n_new, width,
    CHANNELS: tl.constexpr, EDGE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    exists = (row < n_rows)[:, None] & (channel < CHANNELS)[None, :]
    line = (row - n_before) // (width + 2 * EDGE)
    column = (row - n_before) % (width + 2 * EDGE) - EDGE
    is_new = ((row >= n_before) & (column >= 0) & (column < width))[:, None]
    source = (line * width + column).to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(x + source, exists & is_new, 0.0).to(tl.float32)
    # Vectors are loaded with one dimension. Loaded as (1, BLOCK), they would make Triton access all tiles value by
    # value.
    if HAS_BIAS:
        value = tl.where(exists & is_new, value + tl.load(bias + channel, channel < CHANNELS, 0.0)[None, :], 0.0)
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(value * value, 1)), 1e-12)
    value = value * inverse[:, None] * tl.load(gamma + channel, channel < CHANNELS, 0.0)[None, :]
    value = value / (1.0 + tl.exp(-value))
    # Rows of the history are zero at this point. Rows of an edge remain zero.
    place = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    value += tl.load(history + place, exists & (row < n_history)[:, None], 0.0).to(tl.float32)
    result = value.to(frames.dtype.element_ty)
    tl.store(frames + place, result, exists)
    # A copy of the last frames, n_before rows, after the n_new rows.
    behind = (row - n_new).to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(kept + behind, result, exists & (row >= n_new)[:, None])


# One program a tile of rows: x + y + bias, written over x.
@triton.jit
def _add(
    x, y, bias, n_rows, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    exists = (row < n_rows)[:, None] & (channel < CHANNELS)[None, :]
    place = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(x + place, exists, 0.0).to(tl.float32) + tl.load(y + place, exists, 0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + channel, channel < CHANNELS, 0.0)[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), exists)


# One program a tile of output rows: finds the input pixel of each output pixel, and the frame among the channels.
@triton.jit
def _double(
    x, bias, out, n_rows, height, width,
    CHANNELS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    exists = (row < n_rows)[:, None] & (channel < CHANNELS)[None, :]
    column = row % (2 * width)
    line = row // (2 * width) % (2 * height)
    frame = row // (4 * width * height)
    pixel = (frame // PARTS * height + line // 2) * width + column // 2
    part = (frame % PARTS)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(x + pixel.to(tl.int64)[:, None] * (PARTS * CHANNELS) + part, exists, 0.0)
    if HAS_BIAS:
        value = (value.to(tl.float32) + tl.load(bias + part, exists, 0.0)).to(x.dtype.element_ty)
    tl.store(out + row.to(tl.int64)[:, None] * CHANNELS + channel[None, :], value, exists)


def norm_silu(
    x: Tensor, gamma: Tensor, bias: Tensor | None = None, history: Tensor | None = None, edge: int = 0
) -> tuple[Tensor, Tensor]:
    """The same as ops.norm_silu."""
    rows = _rows(x)
    _, n_frames, height, width, channels = rows.shape
    per_frame = height * (width + 2 * edge)
    frames = rows.new_empty(1, FRAMES_BEFORE + n_frames, height, width + 2 * edge, channels)
    kept = rows.new_empty(1, FRAMES_BEFORE, height, width + 2 * edge, channels)
    n_before, n_rows = FRAMES_BEFORE * per_frame, (FRAMES_BEFORE + n_frames) * per_frame
    grid, tile = _tiles(n_rows, channels)
    _norm_silu[grid](
        rows, gamma, bias, rows if history is None else _rows(history), frames, kept,
        n_rows, n_before, 0 if history is None else n_before, n_frames * per_frame, width,
        CHANNELS=channels, EDGE=edge, HAS_BIAS=bias is not None, **tile,
    )  # fmt: skip
    return frames.movedim(-1, 1), kept.movedim(-1, 1)


def add(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as ops.add. Overwrites x if x is channels-last."""
    rows = _rows(x)
    grid, tile = _tiles(rows[..., 0].numel(), rows.shape[-1])
    _add[grid](
        rows, _rows(y), bias, rows[..., 0].numel(), CHANNELS=rows.shape[-1], HAS_BIAS=bias is not None, **tile
    )  # fmt: skip
    return rows.movedim(-1, 1)


def double(x: Tensor, n_parts: int, bias: Tensor | None = None) -> Tensor:
    """The same as ops.double."""
    rows = _rows(x)
    _, n_frames, height, width, wide = rows.shape
    out = rows.new_empty(1, n_frames * n_parts, 2 * height, 2 * width, wide // n_parts)
    n_rows = n_frames * n_parts * 4 * height * width
    grid, tile = _tiles(n_rows, wide // n_parts)
    _double[grid](
        rows, bias, out, n_rows, height, width,
        CHANNELS=wide // n_parts, PARTS=n_parts, HAS_BIAS=bias is not None, **tile,
    )  # fmt: skip
    return out.movedim(-1, 1)


def _rows(x: Tensor) -> Tensor:
    """(1, C, T, H, W) -> (1, T, H, W, C), the same memory where x is channels-last."""
    return x.movedim(1, -1).contiguous()


def _tiles(n_rows: int, channels: int) -> tuple[tuple[int], dict[str, int]]:
    """The number of programs for `n_rows` rows, and the constants of a tile of about _TILE values."""
    block = triton.next_power_of_2(channels)
    rows = max(1, _TILE // block)
    return (triton.cdiv(n_rows, rows),), {"ROWS": rows, "BLOCK": block, "num_warps": 4}

"""Rotary position embeddings: three axes for video tokens, one axis for speakers.

Knows angles and rotations on tensors. Does not know attention, blocks or who speaks where. Pairs are adjacent values
(2i, 2i+1); everything is real arithmetic from float32 tables whose angles were computed in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10_000.0


class RotaryTable(NamedTuple):
    """cos and sin, each (N, head_dim / 2) float32."""

    cos: Tensor
    sin: Tensor


def video_table(grid: tuple[int, int, int], head_dim: int, device: torch.device | str = "cpu") -> RotaryTable:
    """Angles of every token of a (latent frames, rows, columns) grid, frame-major, positions from 0.

    The head's pairs are shared between time, row and column as c - 2 * (c // 3), c // 3, c // 3.
    """
    pairs = head_dim // 2
    axis_pairs = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    angles = []
    for axis, (length, n) in enumerate(zip(grid, axis_pairs, strict=True)):
        frequency = BASE ** (-torch.arange(n, dtype=torch.float64) / n)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
        shape = [1, 1, 1, n]
        shape[axis] = length
        angles.append(angle.view(shape).expand(*grid, n))
    joined = torch.cat(angles, dim=-1).flatten(0, 2)
    return RotaryTable(joined.cos().float().to(device), joined.sin().float().to(device))


def speaker_table(positions: Tensor, head_dim: int) -> RotaryTable:
    """Angles of real-valued speaker positions (N,), over the whole head."""
    exponent = torch.arange(head_dim // 2, dtype=torch.float32, device=positions.device) * (2.0 / head_dim)
    angle = torch.outer(positions.float(), BASE**-exponent)
    return RotaryTable(angle.cos(), angle.sin())


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate x (N, heads, head_dim) by the table's angles; computed and returned in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    cos, sin = table.cos.unsqueeze(-2), table.sin.unsqueeze(-2)
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1).flatten(-2)

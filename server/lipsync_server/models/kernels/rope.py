"""Rotary position embeddings: three axes for video tokens, one axis for speakers.

Attention compares a query with a key by their dot product, which does not depend on the tokens' positions. RoFormer
(https://arxiv.org/abs/2104.09864) turns each pair of neighbouring values of a query or key by an angle that grows with
the token's position p:

    (a, b) -> (a cos w p - b sin w p,  a sin w p + b cos w p)         w = 10000^(-i / n) for pair i of n

The dot product of a query at p and a key at p' then depends on the distance p - p' only. A video token has three
positions (latent frame, row, column), and each turns a third of the pairs. In the audio attention of two people the
position is a place on a line of speakers (https://arxiv.org/abs/2505.22647), on which the tokens of a person are near
that person's sound. A pair is the values (2i, 2i + 1). Angles are computed in float64, tables and rotations are
float32. Does not know attention, blocks or the speakers' places.
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

    A head has c = head_dim / 2 pairs. The latent frame turns the first c - 2 * (c // 3), the row the next c // 3, the
    column the remaining c // 3.
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
    """Angles of real-valued speaker positions (N,) float. The position turns all pairs of a head."""
    exponent = torch.arange(head_dim // 2, dtype=torch.float32, device=positions.device) * (2.0 / head_dim)
    angle = torch.outer(positions.float(), BASE**-exponent)
    return RotaryTable(angle.cos(), angle.sin())


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate x (N, heads, head_dim) by the table's angles; computed and returned in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    cos, sin = table.cos.unsqueeze(-2), table.sin.unsqueeze(-2)
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1).flatten(-2)

"""The first and the last layers of a Wan transformer, in float32: embeddings of noise level and latent, and the head.

Knows the sinusoid of the noise level, its two linear stacks, patches and the head. Does not know blocks, sound or text.
Paper letters: C channels, T latent frames, h w latent height and width, N tokens, D model width.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_server.models.layers.linear_8bit import linear_in
from lipsync_server.models.layers.norms import LayerNorm

Patch = tuple[int, int, int]
"""Latent frames, rows and columns of one token. A token never has two frames, so the first number is 1."""


def sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """timestep (B,) in 0..1000 -> (B, dim) float32: cos(t w_i), then sin(t w_i), with w_i = 10000^(-2 i / dim).

    The angles are computed in float64.
    """
    half = dim // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angle = torch.outer(timestep.to(torch.float64), frequency)
    return torch.cat((angle.cos(), angle.sin()), dim=1).float()


def embed_time(
    embedding: nn.Sequential, projection: nn.Sequential, timestep: Tensor, freq_dim: int
) -> tuple[Tensor, Tensor]:
    """timestep (1,) in 0..1000 -> e (1, D) and e0 (1, 6, D), in float32 whatever the weights' type.

    embedding: linear, SiLU, linear. projection: SiLU, linear to six widths (shift, scale and gate, twice).
    """
    first, _, second = embedding
    e = linear_in(second, F.silu(linear_in(first, sinusoid(timestep, freq_dim))))
    return e, linear_in(projection[1], F.silu(e)).unflatten(1, (6, -1))


def embed_patches(convolution: nn.Conv3d, latent: Tensor, patch: Patch) -> Tensor:
    """latent (C, T, h, w) -> (N, D). A convolution whose stride is its kernel is a linear layer on patches."""
    return F.linear(patchify(latent, patch), convolution.weight.flatten(1), convolution.bias)


class Head(nn.Module):
    """Hidden tokens -> latent patches, in float32."""

    def __init__(self, dim: int, n_values: int, eps: float) -> None:
        """n_values: latent values of one token, all channels of its patch."""
        super().__init__()
        self.norm = LayerNorm(dim, eps, affine=False)
        self.head = nn.Linear(dim, n_values)
        self.modulation = nn.Parameter(torch.empty(1, 2, dim), requires_grad=False)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (N, D), e (1, D) -> (N, patch values * channels), the channel last."""
        shift, scale = (self.modulation.float() + e.unsqueeze(1))[0]
        return linear_in(self.head, cast(Tensor, self.norm(x)) * (1 + scale) + shift)


def patchify(latent: Tensor, patch: Patch) -> Tensor:
    """latent (C, T, h, w) -> (N, C * patch values): tokens frame-major, values in a Conv3d weight's order."""
    C, T, h, w = latent.shape
    _, q, r = patch
    return (
        latent.reshape(C, T, h // q, q, w // r, r).permute(1, 2, 4, 0, 3, 5).reshape(T * (h // q) * (w // r), C * q * r)
    )


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: Patch) -> Tensor:
    """tokens (N, patch values * C), the channel last -> (C, T, h, w)."""
    (T, rows, columns), (_, q, r) = grid, patch
    C = tokens.shape[-1] // (q * r)
    return tokens.view(T, rows, columns, q, r, C).permute(5, 0, 1, 3, 2, 4).reshape(C, T, rows * q, columns * r)

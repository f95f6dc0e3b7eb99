"""Faster elementwise work for the VAE: RMS norm and SiLU as one compiled kernel instead of half a dozen.

The VAE's convolutions are fast in bf16 and channels-last; its norms and activations, written as separate operations,
then take half of the time (docs/performance.md). Knows diffusers' module names, nothing of the engine.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _norm_silu(x: Tensor, gamma: Tensor, scale: float) -> Tensor:
    wide = x.float()
    normalised = wide / wide.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return F.silu(normalised * scale * gamma.float()).to(x.dtype)


class FusedNormSilu(nn.Module):
    """RMS norm over channels followed by SiLU, compiled once for all sizes."""

    _compiled = staticmethod(torch.compile(_norm_silu, dynamic=True))

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.gamma: nn.Parameter = norm.gamma  # type: ignore[assignment]
        self.scale = float(norm.scale)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return type(self)._compiled(x, self.gamma, self.scale)


def fuse_norms(model: nn.Module) -> None:
    """Replace each norm-then-SiLU pair of a Wan VAE by the fused one; the convolutions stay as they are."""
    for block in model.modules():
        if type(block).__name__ == "WanResidualBlock":
            block.norm1, block.norm2 = FusedNormSilu(block.norm1), FusedNormSilu(block.norm2)  # type: ignore[arg-type]
            block.nonlinearity = nn.Identity()
        elif type(block).__name__ in ("WanEncoder3d", "WanDecoder3d"):
            block.norm_out = FusedNormSilu(block.norm_out)  # type: ignore[arg-type]
            block.nonlinearity = nn.Identity()

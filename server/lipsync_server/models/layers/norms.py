"""Layer norm and root-mean-square norm of the Wan transformers, computed and returned in float32.

The published models were trained with norms in float32 and all other layers in bfloat16. Knows no blocks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Layer norm in float32, with or without weight and bias; returns float32."""

    def __init__(self, dim: int, eps: float, *, affine: bool) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False) if affine else None
        self.bias = nn.Parameter(torch.empty(dim), requires_grad=False) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) of any float type -> float32 (..., dim)."""
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), (self.dim,), weight, bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width (not per head): x / sqrt(mean(x^2) + eps) * weight, in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) of any float type -> float32 (..., dim)."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight.float()

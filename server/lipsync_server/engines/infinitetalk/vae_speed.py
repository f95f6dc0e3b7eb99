"""Faster layers for the VAE, with the same numbers: norm and SiLU as one kernel, causal convolutions as 2-D ones.

A 3x3x3 convolution over time and space is a 3x3 convolution over frames whose channels are three frames' channels.
2-D convolutions have far better kernels: torch's CPU falls back to a slow 3-D path below 16 channels, and cuDNN's
channels-last 2-D kernels are its most tuned ones. Knows diffusers' module names, nothing of the engine.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _norm_silu(x: Tensor, gamma: Tensor) -> Tensor:
    """x: (1, C, T, H, W); gamma: (C, 1, 1, 1), already times sqrt(C)."""
    wide = x.float()
    length = (wide * wide).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    return F.silu(wide / length * gamma).to(x.dtype)


@cache
def _compiled_norm_silu(n_channels: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The same on channels-last values laid out in one row, for one number of channels.

    A row has one shape that varies, its length, so each of the three widths compiles once for every size and stride;
    the five-dimensional form would hit torch's limit of recompilations and silently go on uncompiled.
    """

    def in_rows(row: Tensor, gamma: Tensor) -> Tensor:
        wide = row.view(-1, n_channels).float()
        length = (wide * wide).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return F.silu(wide / length * gamma.view(-1)).to(row.dtype).view(-1)

    return torch.compile(in_rows, dynamic=True)


class NormSilu(nn.Module):
    """RMS norm over channels followed by SiLU."""

    def __init__(self, norm: nn.Module, *, compiled: bool) -> None:
        super().__init__()
        gamma: Tensor = norm.gamma  # type: ignore[assignment]
        scale: float = norm.scale  # type: ignore[assignment]
        # A buffer: torch.compile takes the shapes of parameters for constants and would compile once for each.
        self.gamma: Tensor
        self.register_buffer("gamma", gamma.detach().float() * scale)
        self._compiled = _compiled_norm_silu(gamma.shape[0]) if compiled else None

    def forward(self, x: Tensor) -> Tensor:
        if self._compiled is None:
            return _norm_silu(x, self.gamma)
        # Free for channels-last tensors, which is what the GPU path has throughout.
        last = x.movedim(1, -1).contiguous()
        # The same memory as a row of its own: for a view torch.compile would guard on the shape of what it views.
        row = last.new_empty(0).set_(last.untyped_storage(), last.storage_offset(), (last.numel(),), (1,))
        return self._compiled(row, self.gamma).view(last.shape).movedim(-1, 1)


class FoldedCausalConv(nn.Module):
    """A WanCausalConv3d whose time axis is folded into the channels of a 2-D convolution."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.kernel_t, self.stride_t = conv.kernel_size[0], conv.stride[0]
        # diffusers keeps the padding aside: (left, right, top, bottom, before, after).
        padding: tuple[int, ...] = conv._padding  # type: ignore[assignment]
        self.spatial_padding, self.frames_before = (padding[2], padding[0]), padding[4]
        assert conv.bias is not None
        self.bias = conv.bias
        folded = conv.weight.detach().transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(folded, requires_grad=False)

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        before = self.frames_before
        if cache_x is not None and before > 0:
            x = torch.cat([cache_x, x], dim=2)
            before -= cache_x.shape[2]
        if before > 0:
            x = F.pad(x, (0, 0, 0, 0, before, 0))
        n_out = (x.shape[2] - self.kernel_t) // self.stride_t + 1
        reach = self.stride_t * (n_out - 1) + 1
        shifted = [x[:, :, k : k + reach : self.stride_t] for k in range(self.kernel_t)]
        frames = (torch.cat(shifted, dim=1) if self.kernel_t > 1 else x)[0].transpose(0, 1)
        out = F.conv2d(frames, self.weight, self.bias, padding=self.spatial_padding)
        return out.transpose(0, 1)[None]


def order_channels_last(model: nn.Module) -> None:
    """Store the convolutions' weights channels-last, the order that tensor cores want; in place."""
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        elif parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def speed_up(model: nn.Module, *, fold_convolutions: bool, compile_norms: bool) -> None:
    """Replace layers of a Wan VAE in place, for a batch of one."""
    for block in list(model.modules()):
        if type(block).__name__ == "WanResidualBlock":
            block.norm1 = NormSilu(block.norm1, compiled=compile_norms)  # type: ignore[arg-type]
            block.norm2 = NormSilu(block.norm2, compiled=compile_norms)  # type: ignore[arg-type]
            block.nonlinearity = nn.Identity()
        elif type(block).__name__ in ("WanEncoder3d", "WanDecoder3d"):
            block.norm_out = NormSilu(block.norm_out, compiled=compile_norms)  # type: ignore[arg-type]
            block.nonlinearity = nn.Identity()
    if not fold_convolutions:
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "WanCausalConv3d":
                setattr(parent, name, FoldedCausalConv(child))  # type: ignore[arg-type]

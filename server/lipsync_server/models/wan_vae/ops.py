"""The arithmetic between the Wan VAE's convolutions, in plain torch.

kernels.py has the same functions as fused kernels.

Videos are (1, C, T, H, W) in any memory order and any float dtype, which the functions keep. A causal convolution reads
the two frames before its first one, so its input begins with two frames of history: zeros at the start of a video.
Knows no layers and no files.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

FRAMES_BEFORE = 2


class Ops(Protocol):
    """The three functions that this module and kernels.py both have."""

    def norm_silu(
        self, x: Tensor, gamma: Tensor, bias: Tensor | None = None, history: Tensor | None = None, edge: int = 0
    ) -> tuple[Tensor, Tensor]: ...

    def add(self, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor: ...

    def double(self, x: Tensor, n_parts: int, bias: Tensor | None = None) -> Tensor: ...


def norm_silu(
    x: Tensor, gamma: Tensor, bias: Tensor | None = None, history: Tensor | None = None, edge: int = 0
) -> tuple[Tensor, Tensor]:
    """A causal convolution's input: history, then SiLU(gamma * z / |z|) with z = x + bias and |z| over the channels.

    SiLU(y) = y / (1 + exp(-y)). x: (1, C, T, H, W). gamma: (C,) float32, already times sqrt(C). bias: (C,) float32.
    history: the second value that the previous call returned. edge: columns of zeros left and right. Returns (1, C, 2 +
    T, H, W + 2 edge), and its last two frames as the history for the next call.
    """
    wide = _with_bias(x.float(), bias)
    length = (wide * wide).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    normed = F.silu(wide / length * gamma.view(-1, 1, 1, 1)).to(x.dtype)
    return extend(F.pad(normed, (edge, edge)) if edge else normed, history)


def extend(x: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
    """x after its history or zeros, (1, C, 2 + T, H, W), and a copy of its last two frames."""
    before = (0, 0, 0, 0, FRAMES_BEFORE, 0)
    frames = F.pad(x, before) if history is None else torch.cat([history, x], dim=2)
    return frames, frames[:, :, -FRAMES_BEFORE:].clone()


def add(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """x + y + bias in x's type, for x and y of one shape; may overwrite x. bias: (C,) float32."""
    return x + y if bias is None else _with_bias(x.float() + y.float(), bias).to(x.dtype)


def double(x: Tensor, n_parts: int, bias: Tensor | None = None) -> Tensor:
    """Repeat each pixel of x + bias as 2 x 2 pixels. The channels hold `n_parts` frames, which become frames in time.

    x: (1, n_parts * C, T, H, W), bias: (n_parts * C,) float32. Returns (1, C, T * n_parts, 2 H, 2 W).
    """
    x = _with_bias(x.float(), bias).to(x.dtype) if bias is not None else x
    # (T, C, H, W): frames as a batch of pictures.
    pictures = x[0].unflatten(0, (n_parts, -1)).permute(2, 0, 1, 3, 4).flatten(0, 1)
    return F.interpolate(pictures, scale_factor=2.0, mode="nearest-exact").transpose(0, 1)[None]


def _with_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.view(-1, 1, 1, 1)

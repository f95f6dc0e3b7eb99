"""The Wan 2.1 VAE's modules and weights in the layout of diffusers' AutoencoderKLWan: names, shapes and their order.

layers.py replaces the convolutions, residual blocks and resampling by streaming ones. The middle's attention and the
loops over a block's layers compute here. diffusers itself is not used, because its import takes longer than that of
torch: it loads every autoencoder and transformer that it has.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
    -0.9497, 0.2503, -0.2921,
)  # fmt: skip
"""The mean of each latent channel over natural videos, as published."""
LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
    2.8251, 1.9160,
)  # fmt: skip
_N_RESIDUAL = 2
"""Residual blocks of a level of the encoder; the decoder has one more."""
_WIDTHS = (1, 2, 4, 4)
"""The width of each level of the encoder, in base widths; the decoder's levels are in the reverse order."""
Mode = Literal["upsample2d", "upsample3d", "downsample2d", "downsample3d"]


class RMSNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma over the channels C. gamma: (C, 1, ...) with `n_axes` ones."""

    def __init__(self, channels: int, n_axes: int) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * n_axes))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.normalize(x.float(), dim=1).to(x.dtype) * self.scale * self.gamma
        return out


class ResidualBlock(nn.Module):
    """Weights of norm, convolution, norm, convolution, and of a shortcut where the width changes."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(n_in, 3)
        self.conv1 = nn.Conv3d(n_in, n_out, 3, padding=1)
        self.norm2 = RMSNorm(n_out, 3)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv3d(n_in, n_out, 1) if n_in != n_out else nn.Identity()


class Resample(nn.Module):
    """Weights that halve or double height and width; those with 3d in their mode change the number of frames too."""

    def __init__(self, channels: int, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        if mode.startswith("up"):
            self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels // 2, 3, padding=1))
        else:
            self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        if mode == "upsample3d":
            self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1), padding=(1, 0, 0))
        elif mode == "downsample3d":
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))


class Attention(nn.Module):
    """Self-attention with one head between the pixels of a frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (1, C, T, H, W) -> the same shape."""
        frames = x[0].transpose(0, 1)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).contiguous()
        q, k, v = qkv[:, None].chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(frames.shape)
        out: Tensor = self.proj(attended).transpose(0, 1)[None] + x
        return out


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels)])
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels), ResidualBlock(channels, channels)])

    def forward(self, x: Tensor, feat_cache: list[Tensor | None], feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> the same shape. The blocks are the streaming ones of layers.py."""
        x = self.attentions[0](self.resnets[0](x, feat_cache, feat_idx))
        out: Tensor = self.resnets[1](x, feat_cache, feat_idx)
        return out


class UpBlock(nn.Module):
    """A level of the decoder: residual blocks, then the doubling of the size, which the last level lacks."""

    def __init__(self, n_in: int, n_out: int, mode: Mode | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResidualBlock(n_in if first else n_out, n_out) for first in (True, *(False,) * _N_RESIDUAL)]
        )
        self.upsamplers = nn.ModuleList([Resample(n_out, mode)]) if mode else None

    def forward(self, x: Tensor, feat_cache: list[Tensor | None], feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> (1, C', T', 2 H, 2 W). The blocks are the streaming ones of layers.py."""
        for layer in (*self.resnets, *(self.upsamplers or ())):
            x = layer(x, feat_cache, feat_idx)
        return x


class Encoder(nn.Module):
    """Weights from pixels (3 channels) to the mean and logarithm of the variance of latents (32 channels)."""

    def __init__(self, base: int) -> None:
        super().__init__()
        widths = [base * width for width in _WIDTHS]
        modes: tuple[Mode, ...] = ("downsample2d", "downsample3d", "downsample3d")
        self.conv_in = nn.Conv3d(3, base, 3, padding=1)
        self.down_blocks, before = nn.ModuleList(), base
        for level, width in enumerate(widths):
            for _ in range(_N_RESIDUAL):
                self.down_blocks.append(ResidualBlock(before, width))
                before = width
            if level < len(modes):
                self.down_blocks.append(Resample(width, modes[level]))
        self.mid_block = MidBlock(before)
        self.norm_out = RMSNorm(before, 3)
        self.conv_out = nn.Conv3d(before, 2 * LATENT_CHANNELS, 3, padding=1)


class Decoder(nn.Module):
    """Weights from latents (16 channels) to pixels (3 channels)."""

    def __init__(self, base: int) -> None:
        super().__init__()
        widths = [base * width for width in reversed(_WIDTHS)]
        modes: tuple[Mode | None, ...] = ("upsample3d", "upsample3d", "upsample2d", None)
        self.conv_in = nn.Conv3d(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0])
        # Doubling the size halves the width, so all levels after the first get half of the width before them.
        given = [widths[0], *(width // 2 for width in widths)]
        self.up_blocks = nn.ModuleList([UpBlock(*level) for level in zip(given, widths, modes, strict=False)])
        self.norm_out = RMSNorm(base, 3)
        self.conv_out = nn.Conv3d(base, 3, 3, padding=1)


class WanNetwork(nn.Module):
    """All weights. base: the width of the first layer, 96 in the published file."""

    def __init__(self, base: int = 96) -> None:
        super().__init__()
        self.encoder = Encoder(base)
        self.quant_conv = nn.Conv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Decoder(base)

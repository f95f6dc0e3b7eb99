"""Small layers of the InfiniteTalk transformer, with the model's precision rules.

Knows norms, the time, text, image and audio embeddings and the head. Does not know blocks, attention or checkpoints.
Norms, the time embedding and the head work in float32 whatever the weights' type; the rest in the weights' type.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.layers.linear_8bit import linear_in


class LayerNorm(nn.Module):
    """Layer norm in float32, with or without weight and bias; returns float32."""

    def __init__(self, dim: int, eps: float, *, affine: bool) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False) if affine else None
        self.bias = nn.Parameter(torch.empty(dim), requires_grad=False) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), (self.dim,), weight, bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width (not per head) in float32; returns float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight.float()


def sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """timestep (B,) in 0..1000 -> (B, dim) float32, cosines first; the angles are float64."""
    half = dim // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angle = torch.outer(timestep.to(torch.float64), frequency)
    return torch.cat((angle.cos(), angle.sin()), dim=1).float()


class TextEmbedding(nn.Sequential):
    """Text features (n, text_dim) -> (text_len, dim). The zero padding passes through too, and is attended."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(nn.Linear(config.text_dim, config.dim), nn.GELU("tanh"), nn.Linear(config.dim, config.dim))
        self.text_len = config.text_len

    def forward(self, text: Tensor) -> Tensor:
        if text.shape[0] > self.text_len:
            raise ValueError(f"text has {text.shape[0]} tokens, the model takes at most {self.text_len}")
        padded = F.pad(text, (0, 0, 0, self.text_len - text.shape[0]))
        for layer in self:
            padded = layer(padded)
        return padded


class ImageEmbedding(nn.Module):
    """CLIP tokens (n, image_dim) -> (n, dim)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            LayerNorm(config.image_dim, 1e-5, affine=True),
            nn.Linear(config.image_dim, config.image_dim),
            nn.GELU(),
            nn.Linear(config.image_dim, config.dim),
            LayerNorm(config.dim, 1e-5, affine=True),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        dtype = tokens.dtype
        norm_in, linear_1, gelu, linear_2, norm_out = self.proj
        out: Tensor = norm_out(linear_2(gelu(linear_1(norm_in(tokens).to(dtype))))).to(dtype)
        return out


class AudioProjection(nn.Module):
    """Windowed wav2vec2 features -> tokens per latent frame.

    The first latent frame sees the five features round video frame 0. Each later one stands for `vae_scale` video
    frames and sees the distinct features round them: left half of the first frame's window with its centre, the
    centres of the middle frames, centre and right half of the last frame's window.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        values = config.audio_blocks * config.audio_channels
        hidden = config.intermediate_dim
        self.proj1 = nn.Linear(config.audio_window * values, hidden)
        self.proj1_vf = nn.Linear((config.audio_window + config.vae_scale - 1) * values, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, config.context_tokens * config.output_dim)
        self.norm = LayerNorm(config.output_dim, 1e-5, affine=True)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (P, F, window, blocks, channels) -> (P, T, context_tokens, output_dim); F = (T - 1) * vae_scale + 1."""
        config, middle = self.config, self.config.audio_window // 2
        first = audio[:, :1].flatten(2)
        groups = audio[:, 1:].unflatten(1, (-1, config.vae_scale))
        later = torch.cat(
            (groups[:, :, 0, : middle + 1], groups[:, :, 1:-1, middle], groups[:, :, -1, middle:]), dim=2
        ).flatten(2)
        hidden = torch.cat((F.relu(self.proj1(first)), F.relu(self.proj1_vf(later))), dim=1)
        tokens = self.proj3(F.relu(self.proj2(hidden))).unflatten(-1, (config.context_tokens, config.output_dim))
        return cast(Tensor, self.norm(tokens)).to(audio.dtype)


class Head(nn.Module):
    """Hidden tokens -> latent patches, in float32."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.dim, config.eps, affine=False)
        self.head = nn.Linear(config.dim, config.out_dim * config.patch_values)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim), requires_grad=False)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (N, dim), e (1, dim) -> (N, patch values * out_dim), the channel last."""
        shift, scale = (self.modulation.float() + e.unsqueeze(1))[0]
        return linear_in(self.head, self.norm(x) * (1 + scale) + shift)


def patchify(latent: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """latent (C, T, h, w) -> (N, C * patch values): tokens frame-major, values in a Conv3d weight's order."""
    C, T, h, w = latent.shape
    _, q, r = patch
    return (
        latent.reshape(C, T, h // q, q, w // r, r).permute(1, 2, 4, 0, 3, 5).reshape(T * (h // q) * (w // r), C * q * r)
    )


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """tokens (N, patch values * C), the channel last -> (C, T, h, w)."""
    (T, rows, columns), (_, q, r) = grid, patch
    C = tokens.shape[-1] // (q * r)
    return tokens.view(T, rows, columns, q, r, C).permute(5, 0, 1, 3, 2, 4).reshape(C, T, rows * q, columns * r)

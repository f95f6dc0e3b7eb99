"""The sound projection: speech features of a window become the tokens that each latent frame attends to.

A latent frame stands for `stride` video frames (the first for one), so its tokens are made from the speech features
around all of these frames. Knows no wav2vec2 and no transformer.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_server.models.layers.norms import LayerNorm


@dataclass(frozen=True)
class SoundSizes:
    """The sizes of the sound projection.

    window: number of features around a video frame. layers, channels: of one feature. hidden: width of the middle
    layers. n_tokens, width: of the tokens for a latent frame. stride: video frames in a latent frame.
    """

    window: int
    layers: int
    channels: int
    hidden: int
    n_tokens: int
    width: int
    stride: int


class AudioProjection(nn.Module):
    """Windowed wav2vec2 features -> tokens per latent frame.

    The first latent frame uses the five features around video frame 0. Each later one stands for `stride` video frames
    and uses each feature around them once: the left half and the centre of the first frame's window, the centres of the
    middle frames, and the centre and the right half of the last frame's window.
    """

    def __init__(self, sizes: SoundSizes) -> None:
        super().__init__()
        self.sizes = sizes
        values = sizes.layers * sizes.channels
        self.proj1 = nn.Linear(sizes.window * values, sizes.hidden)
        self.proj1_vf = nn.Linear((sizes.window + sizes.stride - 1) * values, sizes.hidden)
        self.proj2 = nn.Linear(sizes.hidden, sizes.hidden)
        self.proj3 = nn.Linear(sizes.hidden, sizes.n_tokens * sizes.width)
        self.norm = LayerNorm(sizes.width, 1e-5, affine=True)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (P, F, window, layers, channels) -> (P, T, n_tokens, width), same dtype; F = (T - 1) * stride + 1."""
        sizes, middle = self.sizes, self.sizes.window // 2
        first = audio[:, :1].flatten(2)
        groups = audio[:, 1:].unflatten(1, (-1, sizes.stride))
        later = torch.cat(
            (groups[:, :, 0, : middle + 1], groups[:, :, 1:-1, middle], groups[:, :, -1, middle:]), dim=2
        ).flatten(2)
        hidden = torch.cat((F.relu(self.proj1(first)), F.relu(self.proj1_vf(later))), dim=1)
        tokens = self.proj3(F.relu(self.proj2(hidden))).unflatten(-1, (sizes.n_tokens, sizes.width))
        return cast(Tensor, self.norm(tokens)).to(audio.dtype)

"""Measures on this card whether the VAE's widest convolutions are faster over pairs of columns (layers.PairedConv).

Pairs cost a third more products. They are faster where cuDNN has no good kernel for 96 channels, as on an H100. Other
cards may differ, so each card is measured. Knows one convolution of the published width.
"""

from functools import cache
from typing import NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor
from torch.nn import functional as F

from lipsync_server.models.kernels.card import relative_error
from lipsync_server.models.kernels.choice import Chooser, Question, Way
from lipsync_server.models.wan_vae.layers import CausalConv, PairedConv

_CHANNELS = 96
"""Channels of the layers at full resolution, where most of the VAE's work is."""
_FRAMES = 6
"""Four new frames and the two before them."""
_ROWS, _COLUMNS = 160, 640
# A result in bf16 differs by 0.003 from float32.
_LIMIT = 0.01


class _Inputs(NamedTuple):
    """weight: of the convolution, float32. frames, wide: for the plain and the paired layer."""

    weight: Tensor
    frames: Tensor
    wide: Tensor
    plain: CausalConv
    paired: PairedConv


@torch.no_grad()
def pairs_are_faster(
    device: torch.device, dtype: torch.dtype, chooser: Chooser, size: tuple[int, int] = (_ROWS, _COLUMNS)
) -> bool:
    """Whether paired convolutions are the faster ones here. size: rows and columns of the trial's frames."""
    some = slice(None, 16)

    @cache
    def inputs() -> _Inputs:
        random = torch.Generator(device).manual_seed(0)
        conv = WanCausalConv3d(_CHANNELS, _CHANNELS, 3, padding=1).to(device, dtype)
        conv.weight.data.normal_(0, 0.02, generator=random)
        frames = torch.randn(1, _CHANNELS, _FRAMES, *size, generator=random, device=device, dtype=dtype)
        frames = frames.contiguous(memory_format=torch.channels_last_3d)
        wide = F.pad(frames, (1, 1)).contiguous(memory_format=torch.channels_last_3d)
        return _Inputs(conv.weight.float(), frames, wide, CausalConv(conv, defer_bias=True), PairedConv(conv))

    def plain() -> Tensor:
        of = inputs()
        return F.conv3d(of.frames[..., :18, :].float(), of.weight, padding=(0, 1, 1))[..., some, :]

    question = Question(
        "vae",
        f"{_CHANNELS} channels, {size[0]} x {size[1]}",
        plain=plain,
        error=lambda got, wanted: relative_error(got[..., some, :], wanted),
        plain_way="plain",
    )
    ways = {
        "plain": Way(lambda: inputs().plain(inputs().frames), _LIMIT),
        "paired": Way(lambda: inputs().paired(inputs().wide), _LIMIT),
    }
    choice = chooser.choose(question, ways)
    return choice is not None and choice.way == "paired"

"""The Wan 2.1 VAE: pixels to latents and back, in pieces, so that memory does not grow with the length of a video.

A variational autoencoder (VAE) packs a video into a smaller one that a transformer can afford: 8 x 8 pixels become one
latent pixel, four frames one latent frame, three colours 16 channels (Wan, https://arxiv.org/abs/2503.20314). Time runs
causally: a latent frame depends on frames up to its own and never on later ones. Frame 0 is a latent frame alone.

    pixels (3, 4n + 1, H, W) in [-1, 1]    <->    latents (16, n + 1, H / 8, W / 8), about normal

So a convolution needs only the last two frames of its input from the previous piece, and the decoder can work on one
latent frame at a time. To encode "the picture, then grey frames", most grey frames need no computation: as soon as all
inputs that a layer remembers are the same grey, its output repeats. The networks are diffusers' AutoencoderKLWan with
the official file's names. Knows no sampler.
"""

import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.tensor_files.named import open_tensors
from lipsync_server.models.wan_vae import ops
from lipsync_server.models.wan_vae.layers import Ways, order_channels_last, streaming
from lipsync_server.models.wan_vae.ops import Ops

LATENT_CHANNELS = 16
FRAMES_PER_LATENT = 4
# Module names inside diffusers' residual block and inside the official one.
_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
_MIDDLE = {"resnets.0": "middle.0", "attentions.0": "middle.1", "resnets.1": "middle.2"}
_OUTSIDE = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
# The decoder's flat list has three residual blocks and an upsampler for each level; the last level has no upsampler.
_BLOCKS_PER_LEVEL = 4


def official_name(name: str) -> str:
    """Name in AutoencoderKLWan -> name in Wan2.1_VAE.pth."""
    side, *rest = name.split(".")
    if side in ("quant_conv", "post_quant_conv"):
        return ".".join(("conv1" if side == "quant_conv" else "conv2", *rest))
    if rest[0] in _OUTSIDE:
        return ".".join((side, _OUTSIDE[rest[0]], *rest[1:]))
    if rest[0] == "mid_block":
        return ".".join((side, _MIDDLE[f"{rest[1]}.{rest[2]}"], _in_block(rest[3:])))
    if rest[0] == "down_blocks":
        return ".".join((side, "downsamples", rest[1], _in_block(rest[2:])))
    level, kind, position = int(rest[1]), rest[2], int(rest[3])
    flat = level * _BLOCKS_PER_LEVEL + (position if kind == "resnets" else _BLOCKS_PER_LEVEL - 1)
    return ".".join((side, "upsamples", str(flat), _in_block(rest[4:])))


def _in_block(parts: list[str]) -> str:
    if parts[0] in _RESIDUAL:
        return ".".join((_RESIDUAL[parts[0]], *parts[1:]))
    return ".".join(("shortcut" if parts[0] == "conv_shortcut" else parts[0], *parts[1:]))


@functools.cache
def _of_diffusers() -> dict[str, str]:
    """diffusers' names of the published file's tensors. The names do not depend on the width."""
    return {name: official_name(name) for name in build(8).state_dict()}


def published_name(name: str) -> str:
    """Name in a file of any program (the Wan wrapper's with `model.`, or diffusers') -> the official name."""
    bare = re.sub(r"^(?:first_stage_model\.|vae\.|model\.)+", "", name)
    return _of_diffusers().get(bare, bare)


def build(base_dim: int = 96) -> AutoencoderKLWan:
    """The published architecture on the meta device; `base_dim` is 96 in the published file."""
    with torch.device("meta"):
        return AutoencoderKLWan(base_dim=base_dim)


class Options(TypedDict, total=False):
    """The way of computing; the results stay the same.

    kernels: whether to use Triton's kernels, if Triton is installed (GPU only; default off). fold_convolutions: use
    FoldedConv of layers.py; the default on the CPU. pair_columns: use PairedConv; the default with kernels.
    channels_last: the order of memory; the default on a GPU.
    """

    kernels: bool
    fold_convolutions: bool
    pair_columns: bool
    channels_last: bool


def _kernels() -> Ops | None:
    """The fused kernels, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    from lipsync_server.models.wan_vae import kernels as vae_kernels

    return vae_kernels


@dataclass
class _Stage:
    """One layer of the encoder.

    settles: the first group of frames from which the output repeats, if all frames after the picture are the same grey.
    """

    layer: nn.Module
    settles: int
    history: list[Tensor | None] = field(default_factory=lambda: [None] * 8)
    output: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, feat_cache=self.history, feat_idx=[0])
        return out


class WanVae:
    """The VAE on one device. Latents are float32 (16, T, h, w), normalised; pixels are (3, F, H, W) in [-1, 1]."""

    def __init__(
        self, model: AutoencoderKLWan, device: torch.device, dtype: torch.dtype, **options: Unpack[Options]
    ) -> None:
        """Split diffusers' model into a list of streaming layers for each direction. options: `Options`."""
        self.device, self.dtype = device, dtype
        mean, std = model.config.latents_mean, model.config.latents_std
        self._mean = torch.tensor(mean, device=device).view(-1, 1, 1, 1)
        self._std = torch.tensor(std, device=device).view(-1, 1, 1, 1)
        self._channels_last = options.get("channels_last", device.type == "cuda")
        if self._channels_last:
            order_channels_last(model)
        kernels = _kernels() if options.get("kernels") else None
        ways = Ways(
            ops=kernels or ops,
            fold=options.get("fold_convolutions", device.type == "cpu"),
            pair=options.get("pair_columns", kernels is not None),
        )
        self._before_decoder, self._after_encoder = model.post_quant_conv, model.quant_conv
        self._encoder, self._decoder = streaming(model.encoder, ways), streaming(model.decoder, ways)

    @classmethod
    def load(
        cls, path: Path, *, device: torch.device, dtype: torch.dtype = torch.float32, **options: Unpack[Options]
    ) -> "WanVae":
        """Read Wan2.1_VAE.pth or a safetensors file of the same weights, at whatever width it has."""
        tensors = open_tensors(path, published_name)
        as_wide = ("encoder.conv1.weight", "encoder.conv1.bias", "decoder.head.0.gamma")
        model = build(into_modules.usual_size(into_modules.shapes_of(tensors), as_wide, 0, 96))
        into_modules.fill(model, tensors, official_name, source=path.name, device=device, dtype=dtype)
        return cls(model, device, dtype, **options)

    def encode(self, video: Tensor) -> Tensor:
        """float32 latents of a video (3, F, H, W). Frames after the last full group of four are ignored."""
        n_latents = (video.shape[1] - 1) // FRAMES_PER_LATENT + 1
        stages = self._encoder_stages()
        groups = []
        for index in range(n_latents):
            first = 0 if index == 0 else FRAMES_PER_LATENT * (index - 1) + 1
            x = self._pixels(video[:, first : FRAMES_PER_LATENT * index + 1])
            for stage in stages:
                x = stage(x)
            groups.append(x)
        return self._normalise(groups)

    def encode_picture(self, picture: Tensor, n_latents: int) -> Tensor:
        """float32 latents (16, n_latents, h, w) of a picture (3, H, W) followed by grey (zero) frames.

        The same numbers as `encode` of the padded video, at about a third of its work for 21 latents.
        """
        stages = self._encoder_stages()
        grey = self._pixels(torch.zeros(3, FRAMES_PER_LATENT, *picture.shape[1:], device=self.device))
        groups: list[Tensor] = []
        for index in range(n_latents):
            done = sum(index > stage.settles for stage in stages)
            if done == len(stages):
                groups.append(groups[-1])
                continue
            if done == 0:
                x = self._pixels(picture[:, None]) if index == 0 else grey
            else:
                remembered = stages[done - 1].output
                assert remembered is not None
                x = remembered
            for position in range(done, len(stages)):
                stage = stages[position]
                x = stage(x)
                if index == stage.settles:
                    stage.output = x
                    # Later groups of frames start after this layer.
                    stage.history.clear()
                    if position:
                        stages[position - 1].output = None
            groups.append(x)
        return self._normalise(groups)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Pixels of each latent frame in turn: (3, 1, H, W) first, then (3, 4, H, W), float32 in [-1, 1]."""
        z = (latents.to(self.device) * self._std + self._mean)[None].to(self.dtype)
        z = self._before_decoder(z)
        history: list[Tensor | None] = [None] * 64
        for index in range(z.shape[2]):
            x = z[:, :, index : index + 1]
            if self._channels_last:
                x = x.contiguous(memory_format=torch.channels_last_3d)
            place = [0]
            for layer in self._decoder:
                x = layer(x, feat_cache=history, feat_idx=place)
            yield x[0].float().clamp(-1, 1)

    def _pixels(self, video: Tensor) -> Tensor:
        """(3, F, H, W) -> (1, 3, F, H, W) on the VAE's device, in its type and memory order."""
        batch = video[None].to(self.device, self.dtype)
        return batch.contiguous(memory_format=torch.channels_last_3d) if self._channels_last else batch

    def _normalise(self, groups: list[Tensor]) -> Tensor:
        """The encoder's outputs of all groups of frames -> latents (16, T, h, w): the mean, scaled to about normal.

        The VAE predicts a distribution for each latent; as in the reference, its mean is used.
        """
        moments = self._after_encoder(torch.cat(groups, dim=2))
        mean: Tensor = moments[0, :LATENT_CHANNELS].float()
        return (mean - self._mean) / self._std

    def _encoder_stages(self) -> list[_Stage]:
        """The encoder's layers in order, each with the first group from which its output repeats for grey input.

        If a layer remembers `n` input frames and gets `rate` frames a group, its output repeats ceil(n / rate) groups
        after its input does. The grey frames begin with group 1.
        """
        stages, settled, rate = [], 1, FRAMES_PER_LATENT
        for layer in self._encoder:
            # The middle block is two residual blocks with attention inside each frame between them.
            remembered = sum(getattr(part, "n_remembered", 0) for part in layer.modules())
            settled += -(-remembered // rate)
            rate = rate // 2 if getattr(layer, "halves_time", False) else rate
            stages.append(_Stage(layer, settled))
        return stages

"""The sizes of a FlashHead transformer: from its config.json, and from the shapes in its file.

The published config.json does not carry the sizes of the sound's layers; the shapes of the tensors do. Knows the
official field names. Does not know tensors or files of weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lipsync_server.errors import WeightsError
from lipsync_server.models.layers.sound_projection import SoundSizes

WINDOW_FRAMES = 33
"""Frames of one run of the model, always: the weights were distilled at this length."""
MOTION_LATENTS = 2
"""Latent frames that a later window takes over from the one before."""


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the transformer; the defaults are those of variant pro.

    in_dim: channels of the noisy latent and of the picture's latent together. vae_stride: (frames, rows, columns) of
    pixels in one latent value.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    freq_dim: int = 256
    text_dim: int = 4096
    in_dim: int = 32
    out_dim: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    vae_stride: tuple[int, int, int] = (4, 8, 8)
    eps: float = 1e-6
    audio_window: int = 5
    audio_blocks: int = 12
    audio_channels: int = 768
    intermediate_dim: int = 512
    context_tokens: int = 32

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim {self.dim} must be an even multiple of num_heads {self.num_heads}")
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size {self.patch_size} must not join latent frames: its first entry must be 1")
        if self.in_dim != 2 * self.out_dim:
            raise ValueError(f"in_dim {self.in_dim} must be twice out_dim {self.out_dim}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def patch_values(self) -> int:
        """Latent values of one channel in a patch."""
        return self.patch_size[0] * self.patch_size[1] * self.patch_size[2]

    @property
    def stride(self) -> int:
        """Video frames in a latent frame."""
        return self.vae_stride[0]

    @property
    def motion_frames(self) -> int:
        """Frames that a later window takes over from the one before: 5 (pro) or 9 (lite)."""
        return (MOTION_LATENTS - 1) * self.stride + 1

    @property
    def sound(self) -> SoundSizes:
        """The sizes of the sound projection; its tokens are as wide as the model."""
        return SoundSizes(
            window=self.audio_window, layers=self.audio_blocks, channels=self.audio_channels,
            hidden=self.intermediate_dim, n_tokens=self.context_tokens, width=self.dim, stride=self.stride,
        )  # fmt: skip

    @classmethod
    def from_json(cls, path: Path) -> "HeadConfig":
        """Read an official config.json; fields that are not sizes of this model are ignored.

        Raises WeightsError when the file is missing, is not JSON or holds impossible sizes.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing: it comes with the model. Download the folder again.") from None
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be read as JSON ({error}); download it again.") from error
        if not isinstance(values, dict):
            raise WeightsError(f"{path} must hold a JSON object with the model's sizes; download it again.")
        known = {field.name for field in fields(cls)} & values.keys()
        sizes: dict[str, Any] = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in known
        }
        try:
            return cls(**sizes)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{path} holds sizes that do not fit together: {error}.") from error

    def with_sound_of(self, shapes: Mapping[str, tuple[int, ...]]) -> "HeadConfig":
        """This config with the sound's sizes from the shapes of the file's tensors, where these are present."""
        first, last = shapes.get("audio_proj.proj1.weight", ()), shapes.get("audio_proj.proj3.weight", ())
        if len(first) != 2 or len(last) != 2:
            return self
        channels = first[1] // (self.audio_window * self.audio_blocks)
        return replace(self, audio_channels=channels, intermediate_dim=first[0], context_tokens=last[0] // self.dim)


LITE = HeadConfig(in_dim=256, out_dim=128, patch_size=(1, 1, 1), vae_stride=(8, 32, 32))
"""The sizes of variant lite."""

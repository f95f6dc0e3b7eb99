"""The sizes of an InfiniteTalk transformer: read from the official config.json, the 14B model by default.

Knows the official field names. Does not know tensors or files of weights.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lipsync_server.errors import WeightsError
from lipsync_server.models.layers.sound_projection import SoundSizes


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the diffusion transformer and of the audio projection that InfiniteTalk adds to it.

    The published config.json carries only some of these; the others keep their defaults.
    """

    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    image_dim: int = 1280
    in_dim: int = 36
    out_dim: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    audio_window: int = 5
    audio_blocks: int = 12
    audio_channels: int = 768
    intermediate_dim: int = 512
    output_dim: int = 768
    context_tokens: int = 32
    vae_scale: int = 4

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim {self.dim} must be an even multiple of num_heads {self.num_heads}")
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size {self.patch_size} must not join latent frames: its first entry must be 1")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def patch_values(self) -> int:
        """Latent values of one channel in a patch."""
        return self.patch_size[0] * self.patch_size[1] * self.patch_size[2]

    @property
    def sound(self) -> SoundSizes:
        """The sizes of the audio projection."""
        return SoundSizes(
            window=self.audio_window, layers=self.audio_blocks, channels=self.audio_channels,
            hidden=self.intermediate_dim, n_tokens=self.context_tokens, width=self.output_dim, stride=self.vae_scale,
        )  # fmt: skip

    @classmethod
    def from_json(cls, path: Path) -> "TransformerConfig":
        """Read an official config.json. Fields that are not sizes of this model are ignored.

        Raises WeightsError when the file is missing, is not JSON or holds impossible sizes.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing: it comes with the Wan2.1-I2V-14B-480P download.") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise WeightsError(f"{path} cannot be read as JSON ({error}); download it again.") from error
        if not isinstance(values, dict):
            raise WeightsError(f"{path} must hold a JSON object with the model's sizes; download it again.")
        known = {field.name for field in fields(cls)} & values.keys()
        sizes: dict[str, Any] = {name: values[name] for name in known}
        try:
            if "patch_size" in sizes:
                sizes["patch_size"] = tuple(sizes["patch_size"])
            return cls(**sizes)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{path} holds sizes that do not fit together: {error}.") from error

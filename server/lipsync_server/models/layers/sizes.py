"""The sizes of every Wan transformer, read from an official config.json.

An engine adds its own sizes in a subclass. Knows the official field names. Does not know tensors or model files.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from lipsync_server.errors import WeightsError
from lipsync_server.models.layers.sound_projection import SoundSizes


@dataclass(frozen=True)
class WanSizes:
    """Sizes of a transformer with sound input.

    A published config.json has only some of them; the others keep their defaults.

    dim: model width. ffn_dim: width of the feed-forward's middle. freq_dim: values of the timestep's sinusoid. in_dim,
    out_dim: channels of latents. patch_size: latent frames, rows and columns in a token. audio_window: number of speech
    features around a video frame. audio_blocks, audio_channels: layers and channels of one feature. intermediate_dim:
    width of the sound projection's middle layers. context_tokens: sound tokens of a latent frame.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    patch_size: tuple[int, int, int] = (1, 2, 2)
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

    @property
    def head_dim(self) -> int:
        """Numbers of one attention head."""
        return self.dim // self.num_heads

    @property
    def patch_values(self) -> int:
        """Latent values of one channel in a patch."""
        return self.patch_size[0] * self.patch_size[1] * self.patch_size[2]

    def sound_sizes(self, *, width: int, stride: int) -> SoundSizes:
        """The sizes of the sound projection. width: of its tokens. stride: video frames in a latent frame."""
        return SoundSizes(
            window=self.audio_window, layers=self.audio_blocks, channels=self.audio_channels,
            hidden=self.intermediate_dim, n_tokens=self.context_tokens, width=width, stride=stride,
        )  # fmt: skip

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read an official config.json. Fields that are not sizes of this model are ignored.

        Raises WeightsError when the file is missing, is not JSON or holds impossible sizes.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WeightsError(
                f"{path} is missing: it comes with the model files. Download the folder again."
            ) from None
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

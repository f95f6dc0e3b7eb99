"""The sizes of a FlashHead transformer: from its config.json, and from the shapes in its file.

The published config.json lacks the sizes of the sound's layers; they are read from the shapes of the tensors. Knows the
official field names. Does not know tensors or model files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lipsync_server.models.layers.sizes import WanSizes
from lipsync_server.models.layers.sound_projection import SoundSizes

WINDOW_FRAMES = 33
"""Number of frames of every run of the model: the weights were distilled at this length."""
MOTION_LATENTS = 2
"""Number of latent frames from the previous window with which a later window begins."""


@dataclass(frozen=True)
class HeadConfig(WanSizes):
    """Sizes of the transformer. The defaults are the sizes of variant pro.

    in_dim: channels of the noisy latent and of the picture's latent together. vae_stride: (frames, rows, columns) of
    pixels in one latent value.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    in_dim: int = 32
    vae_stride: tuple[int, int, int] = (4, 8, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_dim != 2 * self.out_dim:
            raise ValueError(f"in_dim {self.in_dim} must be twice out_dim {self.out_dim}")

    @property
    def stride(self) -> int:
        """Video frames in a latent frame."""
        return self.vae_stride[0]

    @property
    def motion_frames(self) -> int:
        """Number of frames from the previous window with which a later window begins: 5 (pro) or 9 (lite)."""
        return (MOTION_LATENTS - 1) * self.stride + 1

    @property
    def sound(self) -> SoundSizes:
        """The sizes of the sound projection; its tokens are as wide as the model."""
        return self.sound_sizes(width=self.dim, stride=self.stride)

    def with_sound_of(self, shapes: Mapping[str, tuple[int, ...]]) -> "HeadConfig":
        """This config with the sound's sizes from the shapes of the file's tensors, where these are present."""
        first, last = shapes.get("audio_proj.proj1.weight", ()), shapes.get("audio_proj.proj3.weight", ())
        if len(first) != 2 or len(last) != 2:
            return self
        channels = first[1] // (self.audio_window * self.audio_blocks)
        return replace(self, audio_channels=channels, intermediate_dim=first[0], context_tokens=last[0] // self.dim)


LITE = HeadConfig(in_dim=256, out_dim=128, patch_size=(1, 1, 1), vae_stride=(8, 32, 32))
"""The sizes of variant lite."""

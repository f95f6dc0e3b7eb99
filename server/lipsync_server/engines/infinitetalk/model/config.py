"""The sizes of an InfiniteTalk transformer: read from the official config.json, the 14B model by default.

Knows the official field names. Does not know tensors or files of weights.
"""

from dataclasses import dataclass

from lipsync_server.models.layers.sizes import WanSizes
from lipsync_server.models.layers.sound_projection import SoundSizes


@dataclass(frozen=True)
class TransformerConfig(WanSizes):
    """Sizes of the diffusion transformer and of the audio projection that InfiniteTalk adds to it.

    The published config.json carries only some of these; the others keep their defaults.
    """

    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    text_len: int = 512
    image_dim: int = 1280
    in_dim: int = 36
    output_dim: int = 768
    vae_scale: int = 4

    @property
    def sound(self) -> SoundSizes:
        """The sizes of the audio projection."""
        return self.sound_sizes(width=self.output_dim, stride=self.vae_scale)

"""The InfiniteTalk transformer's input layers for the prompt and for the picture's CLIP tokens.

Knows the two embeddings; the layers that other engines use too are in models/layers/. Does not know blocks, attention
or weight files. The norms work in float32 whatever the weights' type, everything else in the weights' type.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.layers.norms import LayerNorm


class TextEmbedding(nn.Sequential):
    """Text features (n, text_dim) -> (text_len, dim). The zero padding passes through too, and is attended."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(nn.Linear(config.text_dim, config.dim), nn.GELU("tanh"), nn.Linear(config.dim, config.dim))
        self.text_len = config.text_len

    def forward(self, text: Tensor) -> Tensor:
        """Raises ValueError for a text with more than text_len tokens."""
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

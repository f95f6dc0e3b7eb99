"""The start of every Wan transformer: patches of the latent become tokens, the timestep becomes vectors.

A subclass adds the blocks, its own conditions and the head. Does not know model files or sampling. Paper letters: C
channels, T latent frames, h w latent height and width, N tokens, D model width.
"""

import torch
from torch import Tensor, nn

from lipsync_server.models.layers.embeddings import embed_patches, embed_time
from lipsync_server.models.layers.sizes import WanSizes


class WanTransformer(nn.Module):
    """The embeddings of latent and timestep. The type and the device of their weights are the model's."""

    def __init__(self, sizes: WanSizes) -> None:
        super().__init__()
        self.sizes = sizes
        dim, patch = sizes.dim, sizes.patch_size
        self.patch_embedding = nn.Conv3d(sizes.in_dim, dim, kernel_size=patch, stride=patch)
        self.time_embedding = nn.Sequential(nn.Linear(sizes.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the hidden states."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device on which the model computes."""
        return self.patch_embedding.weight.device

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """timestep (1,) in 0..1000 -> e (1, D) and e0 (1, 6, D), in float32 whatever the weights' type."""
        return embed_time(self.time_embedding, self.time_projection, timestep.to(self.device), self.sizes.freq_dim)

    def embed_patches(self, latent: Tensor) -> Tensor:
        """latent (C, T, h, w) -> (N, D) in the type of the hidden states."""
        return embed_patches(self.patch_embedding, latent.to(self.device, self.dtype), self.sizes.patch_size)

"""Which of a video's tokens this process takes through the blocks: all, or a share when several GPUs render together.

The transformer asks a `TokenSharing` at the few places where tokens of other processes matter. Knows the questions, and
the answers for one process. The answers for several are in sequence_parallel.py.
"""

from typing import Protocol

from torch import Tensor

from lipsync_server.engines.infinitetalk.model.blocks import speaker_map, speaker_positions
from lipsync_server.models.kernels.attention import Attention, Kernel

Grid = tuple[int, int, int]
"""Latent frames, rows and columns of tokens."""


class TokenSharing(Protocol):
    """The questions. `own` below is the number of tokens that this process takes.

    A forward calls `split`, then the blocks' parts once each, then `join`.
    """

    def split(self, x: Tensor, grid: Grid) -> Tensor:
        """x (N, ...), frame-major -> this process's part, (own, ...), from every frame equally many."""

    def join(self, x: Tensor, grid: Grid) -> Tensor:
        """The parts (own, D) of all processes -> (N, D)."""

    def attention(self, chosen: Attention) -> Attention:
        """The chosen kernels, with self-attention to all processes' tokens."""

    def speaker_map(self, q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
        """blocks.speaker_map over all tokens, in the form that `speaker_positions` takes."""

    def speaker_positions(self, regions: Tensor) -> Tensor:
        """blocks.speaker_positions of this process's tokens, (own,), from what `speaker_map` gave."""


class AllTokens:
    """The answers for one process: it takes all tokens."""

    def split(self, x: Tensor, grid: Grid) -> Tensor:
        return x

    def join(self, x: Tensor, grid: Grid) -> Tensor:
        return x

    def attention(self, chosen: Attention) -> Attention:
        return chosen

    def speaker_map(self, q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
        return speaker_map(q, k, masks, attend)

    def speaker_positions(self, regions: Tensor) -> Tensor:
        return speaker_positions(regions)

"""The tokens that this process computes in the blocks: all, or a share when several GPUs render together.

The transformer calls a `TokenSharing` at the few places where tokens of other processes matter. This module has the
interface and its form for one process. sequence_parallel.py has the form for several. Hidden states are float32 or
bfloat16 and keep their type.
"""

from typing import Protocol

from torch import Tensor

from lipsync_server.engines.infinitetalk.model.blocks import speaker_map, speaker_positions
from lipsync_server.models.kernels.attention import Attention, Kernel

Grid = tuple[int, int, int]
"""Latent frames, rows and columns of tokens."""


class TokenSharing(Protocol):
    """The interface. `own` below is the number of tokens that this process computes.

    A forward calls `split`, then the blocks' parts once each, then `join`.
    """

    def split(self, x: Tensor, grid: Grid) -> Tensor:
        """x (N, ...), frame-major -> this process's part (own, ...), equally many tokens of every frame."""

    def join(self, x: Tensor, grid: Grid) -> Tensor:
        """The parts (own, D) of all processes -> (N, D)."""

    def attention(self, chosen: Attention) -> Attention:
        """The chosen kernels, with self-attention to all processes' tokens."""

    def speaker_map(self, q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
        """blocks.speaker_map over all tokens: (3, N), or another form that this class's `speaker_positions` takes."""

    def speaker_positions(self, regions: Tensor) -> Tensor:
        """blocks.speaker_positions of this process's tokens, (own,), from the result of `speaker_map`."""


class AllTokens:
    """The form for one process, which computes all tokens."""

    def split(self, x: Tensor, grid: Grid) -> Tensor:
        """x (N, ...) -> the same tensor."""
        return x

    def join(self, x: Tensor, grid: Grid) -> Tensor:
        """x (N, D) -> the same tensor."""
        return x

    def attention(self, chosen: Attention) -> Attention:
        """`chosen` unchanged."""
        return chosen

    def speaker_map(self, q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
        """blocks.speaker_map: (3, N) float32."""
        return speaker_map(q, k, masks, attend)

    def speaker_positions(self, regions: Tensor) -> Tensor:
        """blocks.speaker_positions: regions (3, N) -> (N,) float32."""
        return speaker_positions(regions)

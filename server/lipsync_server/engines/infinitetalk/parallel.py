"""One window on several GPUs: the tokens are shared out over processes, self-attention by heads (Ulysses).

Every process holds the whole model and sees the same inputs. In the blocks each works on its part of every latent
frame, so all but self-attention stays local; there two all-to-all exchanges trade tokens for heads and back. Knows
torch.distributed's default group, the blocks' seams and the order of tokens. Does not know who starts the processes.

DeepSpeed-Ulysses: https://arxiv.org/abs/2309.14509
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from lipsync_server.errors import EngineUnavailable

from .attention import Attention, Kernel
from .blocks import Block, speaker_map, speaker_positions
from .rope import RotaryTable
from .transformer import Conditioning, InfiniteTalkTransformer

# Operators of their own, so that a compiled block stays one graph. `counts`: tokens of each process.


@torch.library.custom_op("lipsync::tokens_to_heads", mutates_args=())
def tokens_to_heads(x: Tensor, counts: list[int]) -> Tensor:
    """x (own tokens, heads, c) -> (all tokens in the order of processes, own heads, c)."""
    size = len(counts)
    mine: Tensor = x.unflatten(1, (size, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    out = x.new_empty(sum(counts), x.shape[1] // size, x.shape[2])
    dist.all_to_all_single(out, mine, counts, [x.shape[0]] * size)
    return out


@tokens_to_heads.register_fake
def _(x: Tensor, counts: list[int]) -> Tensor:
    return x.new_empty(sum(counts), x.shape[1] // len(counts), x.shape[2])


@torch.library.custom_op("lipsync::heads_to_tokens", mutates_args=())
def heads_to_tokens(x: Tensor, counts: list[int], rank: int) -> Tensor:
    """x (all tokens, own heads, c) -> (own tokens, heads, c): what `tokens_to_heads` did, undone."""
    size, n_own = len(counts), counts[rank]
    out = x.new_empty(size * n_own, x.shape[1], x.shape[2])
    dist.all_to_all_single(out, x.contiguous(), [n_own] * size, counts)
    tokens: Tensor = out.unflatten(0, (size, n_own)).transpose(0, 1).flatten(1, 2)
    return tokens.contiguous()


@heads_to_tokens.register_fake
def _(x: Tensor, counts: list[int], rank: int) -> Tensor:
    return x.new_empty(counts[rank], x.shape[1] * len(counts), x.shape[2])


@torch.library.custom_op("lipsync::mean_of_processes", mutates_args=())
def mean_of_processes(x: Tensor) -> Tensor:
    out = x.clone()
    dist.all_reduce(out)
    return out / dist.get_world_size()


@mean_of_processes.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class Share:
    """How the tokens of a grid are shared out: process r has `sizes[r]` tokens of each of `n_frames` latent frames."""

    rank: int
    sizes: tuple[int, ...]
    n_frames: int

    @classmethod
    def of(cls, grid: tuple[int, int, int], rank: int, size: int) -> "Share":
        """As even as can be; raises ValueError when a frame has fewer tokens than there are processes."""
        n_tokens = grid[1] * grid[2]
        if n_tokens < size:
            raise ValueError(f"{n_tokens} tokens a frame cannot be shared by {size} processes")
        return cls(rank, tuple(n_tokens // size + (r < n_tokens % size) for r in range(size)), grid[0])

    @property
    def counts(self) -> list[int]:
        """Tokens of each process, over all frames."""
        return [self.n_frames * size for size in self.sizes]

    @property
    def own(self) -> slice:
        """This process's tokens among all in the order of processes."""
        first = sum(self.counts[: self.rank])
        return slice(first, first + self.counts[self.rank])

    def take(self, x: Tensor) -> Tensor:
        """x (N, ...) in the model's order, frame-major -> this process's part, (own, ...)."""
        first = sum(self.sizes[: self.rank])
        part: Tensor = x.unflatten(0, (self.n_frames, -1))[:, first : first + self.sizes[self.rank]]
        return part.flatten(0, 1)

    def join(self, x: Tensor) -> Tensor:
        """Every process's part (own, D) -> (N, D) in the model's order, on every process."""
        # Processes differ by one token a frame at most; gathering wants them equal.
        padded = x.new_zeros(max(self.counts), x.shape[1])
        padded[: x.shape[0]] = x
        gathered = [torch.empty_like(padded) for _ in self.sizes]
        dist.all_gather(gathered, padded)
        parts = [part[:count] for part, count in zip(gathered, self.counts, strict=True)]
        return torch.cat([part.unflatten(0, (self.n_frames, -1)) for part in parts], dim=1).flatten(0, 1)

    def first_frame(self, x: Tensor) -> Tensor:
        """x (N, ...) in the order of processes -> the first latent frame's tokens in the model's order."""
        starts = [0, *accumulate(self.counts)]
        return torch.cat([x[start : start + size] for start, size in zip(starts, self.sizes, strict=False)])


@dataclass(frozen=True)
class _ParallelAttention(Attention):
    """The chosen kernels, with self-attention through the exchange."""

    through: Kernel | None = None

    @property
    def self_kernel(self) -> Kernel:
        assert self.through is not None
        return self.through


def several_processes() -> bool:
    """Whether this process renders together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class SequenceParallel:
    """Runs a transformer's blocks on all processes of torch.distributed's default group.

    Attach it after attention was chosen and before the blocks are compiled. All processes must then make the same
    forwards in the same order, with the same inputs; each gets the whole result.
    """

    def __init__(self, transformer: InfiniteTalkTransformer) -> None:
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        heads = transformer.config.num_heads
        if heads % self._size:
            raise EngineUnavailable(
                f"InfiniteTalk's {heads} attention heads cannot be shared by {self._size} GPUs. Use a number of GPUs "
                f"that divides {heads}."
            )
        if transformer.attention is None:
            transformer.set_attention()
        assert transformer.attention is not None
        self._attention, self._inner = transformer.attention, transformer.attention.self_kernel
        self._share: Share | None = None
        self._run_alone, self._whole_rope = transformer._run_blocks, transformer.rope
        self._transformer = transformer
        self._ropes: dict[tuple[int, int, int], RotaryTable] = {}
        attention = self._attention
        transformer.attention = _ParallelAttention(
            attention.name, f"{attention.reason}; over {self._size} GPUs", attention.kernel, through=self.attend
        )
        transformer._run_blocks = self.run_blocks  # type: ignore[method-assign]
        for block in cast("Iterator[Block]", transformer.blocks):
            block.self_attn.attend = self.attend
            block.self_attn.regions = self.speaker_map
            block.audio_cross_attn.positions = self.speaker_positions

    def run_blocks(self, x: Tensor, e0: Tensor, conditioning: Conditioning, grid: tuple[int, int, int]) -> Tensor:
        """x (N, D) -> (N, D), the same on every process."""
        share = Share.of(grid, self._rank, self._size)
        with self._sharing(share):
            return share.join(self._run_alone(share.take(x), e0, conditioning, grid))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of this process's tokens to all tokens; (1, own, H, d) each."""
        share = self._current
        q, k, v = tokens_to_heads(torch.cat((q[0], k[0], v[0]), dim=-1), share.counts).chunk(3, dim=-1)
        out = self._inner(q.contiguous()[None], k.contiguous()[None], v.contiguous()[None])[0]
        tokens: Tensor = heads_to_tokens(out, share.counts, share.rank)
        return tokens[None]

    def speaker_map(self, q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
        """blocks.speaker_map of all tokens, in the order of processes: (3, N). q, k (own, heads, head_dim)."""
        share = self._current
        q, k = tokens_to_heads(torch.cat((q, k), dim=-1), share.counts).chunk(2, dim=-1)
        regions: Tensor = mean_of_processes(
            speaker_map(q.contiguous(), share.first_frame(k).contiguous(), masks, attend)
        )
        return regions

    def speaker_positions(self, regions: Tensor) -> Tensor:
        """Rotary positions of this process's tokens; they depend on the extremes over all tokens."""
        return speaker_positions(regions)[self._current.own]

    @property
    def _current(self) -> Share:
        assert self._share is not None
        return self._share

    @contextmanager
    def _sharing(self, share: Share) -> Iterator[None]:
        self._share = share
        transformer = self._transformer
        transformer.rope = self._own_rope  # type: ignore[method-assign]
        try:
            yield
        finally:
            transformer.rope = self._whole_rope  # type: ignore[method-assign]
            self._share = None

    def _own_rope(self, grid: tuple[int, int, int]) -> RotaryTable:
        if grid not in self._ropes:
            whole, share = self._whole_rope(grid), self._current
            self._ropes[grid] = RotaryTable(share.take(whole.cos), share.take(whole.sin))
        return self._ropes[grid]

"""One window on several GPUs: the tokens are shared out over processes, self-attention by heads (Ulysses).

Every process holds the whole model and sees the same inputs. In the blocks each works on its part of every latent
frame, so all but self-attention stays local; there two all-to-all exchanges trade tokens for heads and back. Knows
torch.distributed's default group and the order of tokens. Tensors keep their type through an exchange. Does not know
the transformer, whose TokenSharing this is, nor the start of the processes.

DeepSpeed-Ulysses: https://arxiv.org/abs/2309.14509
"""

from dataclasses import dataclass
from itertools import accumulate, count
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from lipsync_server.engines.infinitetalk.model.blocks import speaker_map, speaker_positions
from lipsync_server.engines.infinitetalk.model.token_sharing import Grid
from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels.attention import Attention, Kernel


def tokens_to_heads(parts: list[Tensor], counts: list[int]) -> Tensor:
    """n parts (own tokens, heads, c) -> (all tokens in the order of processes, n, own heads, c), in one exchange.

    counts: tokens of each process.
    """
    size = len(counts)
    mine = torch.stack([part.unflatten(1, (size, -1)).transpose(0, 1) for part in parts], dim=2)
    out = mine.new_empty(sum(counts), *mine.shape[2:])
    dist.all_to_all_single(out, mine.flatten(0, 1), counts, [mine.shape[1]] * size)
    return out


def heads_to_tokens(x: Tensor, counts: list[int], rank: int) -> Tensor:
    """x (all tokens, own heads, c) -> (own tokens, heads, c): the inverse of `tokens_to_heads` for one part."""
    size, n_own = len(counts), counts[rank]
    out = x.new_empty(size * n_own, x.shape[1], x.shape[2])
    dist.all_to_all_single(out, x.contiguous(), [n_own] * size, counts)
    tokens: Tensor = out.unflatten(0, (size, n_own)).transpose(0, 1).flatten(1, 2)
    return tokens.contiguous()


@dataclass(frozen=True)
class Share:
    """The shares of a grid's tokens: process r has `sizes[r]` tokens of each of `n_frames` latent frames."""

    rank: int
    sizes: tuple[int, ...]
    n_frames: int

    @classmethod
    def of(cls, grid: Grid, rank: int, size: int) -> "Share":
        """The share of process `rank` of `size` processes. All shares are as equal as possible.

        Raises ValueError if a frame has fewer tokens than there are processes.
        """
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


@dataclass(frozen=True, kw_only=True)
class _SharedAttention(Attention):
    """The chosen kernels, with self-attention through the exchange."""

    alone: Attention
    through: Kernel
    n_processes: int

    @property
    def self_kernel(self) -> Kernel:
        return self.through

    def __str__(self) -> str:
        return f"{self.alone}; in self-attention {self.n_processes} processes trade tokens for heads"


def several_processes() -> bool:
    """Whether this process renders together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def way_of_first_process(way: str) -> str:
    """The way of process 0 for all (models/kernels/choice.py): timings differ, and one video needs one way."""
    found = [way]
    dist.broadcast_object_list(found, src=0)
    return found[0]


class SequenceParallel:
    """The TokenSharing of all processes of torch.distributed's default group.

    They must all make the same forwards in the same order, with the same inputs; each gets the whole result.
    Raises EngineUnavailable when the attention heads cannot be shared out evenly.
    """

    def __init__(self, n_heads: int) -> None:
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        if n_heads % self._size:
            raise EngineUnavailable(
                f"InfiniteTalk's {n_heads} attention heads cannot be shared by {self._size} GPUs. Use a number of "
                f"GPUs that divides {n_heads}."
            )
        self._share: Share | None = None
        self._chosen: Attention | None = None
        self._number = next(_numbers)
        _by_number[self._number] = self

    def split(self, x: Tensor, grid: Grid) -> Tensor:
        """x (N, ...) -> (own, ...)."""
        self._share = Share.of(grid, self._rank, self._size)
        return self._share.take(x)

    def join(self, x: Tensor, grid: Grid) -> Tensor:
        """(own, D) -> (N, D), the same on every process."""
        return Share.of(grid, self._rank, self._size).join(x)

    def attention(self, chosen: Attention) -> Attention:
        """`chosen`, whose kernel for self-attention then runs on all tokens and this process's heads."""
        self._chosen = chosen
        return _SharedAttention(
            chosen.name, chosen.reason, chosen.kernel, alone=chosen, through=self.attend, n_processes=self._size
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of this process's tokens to all tokens; (1, own, H, d) each."""
        out: Tensor = _attend(q, k, v, self._number)
        return out

    def speaker_map(self, q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
        """Positions of this process's tokens by blocks.speaker_positions of the map of all tokens: (own,) float32.

        q, k (own, heads, head_dim). The positions depend on the map's extremes over all tokens.
        """
        positions: Tensor = _positions(q, k, masks, self._number)
        return positions

    def speaker_positions(self, regions: Tensor) -> Tensor:
        """`regions` unchanged: `speaker_map` of this class has computed the positions (own,) float32 already."""
        return regions

    def attend_now(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`attend` without the operator that hides the exchange from torch.compile; (1, own, H, d) each."""
        share, chosen = self._now
        q, k, v = tokens_to_heads([q[0], k[0], v[0]], share.counts).unbind(1)
        return heads_to_tokens(chosen.self_kernel(q[None], k[None], v[None])[0], share.counts, share.rank)[None]

    def positions_now(self, q: Tensor, k: Tensor, masks: Tensor) -> Tensor:
        """`speaker_map` without that operator: q, k (own, heads, head_dim), masks (3, S) -> (own,) float32."""
        share, chosen = self._now
        q, k = tokens_to_heads([q, k], share.counts).unbind(1)
        regions = speaker_map(q, share.first_frame(k), masks, chosen.kernel)
        dist.all_reduce(regions)  # the sum of means over equally many heads
        return speaker_positions(regions / self._size)[share.own]

    @property
    def _now(self) -> tuple[Share, Attention]:
        assert self._share is not None
        assert self._chosen is not None
        return self._share, self._chosen


# A compiled block must not look into an exchange: how many tokens the others have would become constants of it, and
# each size of picture compile it anew. Operators are opaque, but take tensors and numbers only.
_numbers = count()
_by_number: WeakValueDictionary[int, SequenceParallel] = WeakValueDictionary()


@torch.library.custom_op("lipsync::attend_over_processes", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, number: int) -> Tensor:
    return _by_number[number].attend_now(q, k, v)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, number: int) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("lipsync::positions_over_processes", mutates_args=())
def _positions(q: Tensor, k: Tensor, masks: Tensor, number: int) -> Tensor:
    return _by_number[number].positions_now(q, k, masks)


@_positions.register_fake
def _(q: Tensor, k: Tensor, masks: Tensor, number: int) -> Tensor:
    return q.new_empty(q.shape[0], dtype=torch.float32)

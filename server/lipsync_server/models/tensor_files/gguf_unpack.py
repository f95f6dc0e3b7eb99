"""GGUF's usual block formats unpacked by torch, on a GPU in a fraction of the time that a CPU takes.

The same numbers, to the bit, as the package `gguf` gives: its formulas in the same order, in float32. Formats that are
not here are left to that package. A block is a row of bytes: float16 scales, then packed numbers. In the formats Q4_K
and Q5_K, 8 sub-blocks of 32 numbers have a scale and a minimum of 6 bits each. Knows blocks. Does not know files.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def _q8_0(blocks: Tensor) -> Tensor:
    """A scale and 32 int8 numbers: scale * number."""
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks[:, :2])


def _q4_0(blocks: Tensor) -> Tensor:
    """A scale and 32 numbers of 4 bits: scale * (number - 8)."""
    numbers = _nibbles(blocks[:, 2:]).to(torch.int8) - 8
    return numbers.float() * _half(blocks[:, :2])


def _q4_k(blocks: Tensor) -> Tensor:
    """Eight sub-blocks of 32 numbers of 4 bits, with a scale and a minimum each (`_scaled`)."""
    numbers = _nibbles(blocks[:, 16:].unflatten(1, (4, 32)))
    return _scaled(blocks, numbers.unflatten(1, (8, 32)))


def _q5_k(blocks: Tensor) -> Tensor:
    """As Q4_K, with a fifth bit of each number in 32 bytes of their own: bit i belongs to sub-block i."""
    low = _nibbles(blocks[:, 48:].unflatten(1, (4, 32))).unflatten(1, (8, 32))
    high = (blocks[:, None, 16:48] >> _shifts(blocks, 8, 1)) & 1
    return _scaled(blocks, low | (high << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    """16 sub-blocks of 16 numbers of 6 bits (4 low and 2 high), with an int8 scale each and a float16 scale of all."""
    low = _nibbles(blocks[:, :128].unflatten(1, (2, 64))).unflatten(1, (8, 32))
    high = (blocks[:, 128:192].unflatten(1, (2, 1, 32)) >> _shifts(blocks, 4, 2)) & 3
    numbers = (low | (high.flatten(1).unflatten(1, (8, 32)) << 4)).to(torch.int8) - 32
    scales = _half(blocks[:, 208:]) * blocks[:, 192:208].view(torch.int8).float()
    values: Tensor = scales[:, :, None] * numbers.flatten(1).unflatten(1, (16, 16)).float()
    return values.flatten(1)


UNPACKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
"""Format -> function of its blocks, (n, bytes of a block) uint8, that gives their numbers, (n, numbers) float32."""


def _scaled(blocks: Tensor, numbers: Tensor) -> Tensor:
    """Q4_K and Q5_K: scale * number - minimum, (n, 256); numbers (n, 8, 32)."""
    packed = blocks[:, 4:16].unflatten(1, (3, 4))
    first, second, both = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = torch.cat([first & 63, (both & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (both >> 4) | ((second >> 2) & 48)], dim=1)
    scale, minimum = _half(blocks[:, :2]) * scales.float(), _half(blocks[:, 2:4]) * minima.float()
    return (scale[:, :, None] * numbers.float() - minimum[:, :, None]).flatten(1)


def _nibbles(packed: Tensor) -> Tensor:
    """The low and then the high halves of each row of bytes: (n, ..., m) -> (n, 2 m of every row together)."""
    return torch.stack([packed & 15, packed >> 4], dim=-2).flatten(1)


def _shifts(blocks: Tensor, n: int, bits: int) -> Tensor:
    """The shifts 0, bits, 2 bits, ... of n fields in a byte: (n, 1) uint8."""
    return torch.arange(0, n * bits, bits, device=blocks.device, dtype=torch.uint8)[:, None]


def _half(scales: Tensor) -> Tensor:
    """Two bytes of each block as the float32 value of a float16, (n, 1)."""
    return scales.contiguous().view(torch.float16).float()

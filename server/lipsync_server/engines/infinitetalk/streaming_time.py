"""Computes the duration of a forward with streamed blocks, from the times of one block and of one copy.

The schedule is that of model/offload.py: two buffers on the GPU, copies in order on a stream of their own. A copy
starts once the copy before it is done and its buffer is free. A buffer is free once the block in it has computed. A
block starts once its copy is done. So a copy is hidden if the blocks since the copy before it compute longer. Like
roofline.py, this module computes figures for tables and decides nothing. Knows times and order; moves no bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_SLOTS = 2
_FORWARDS = 3
PCIE3_X8_BYTES_PER_S = 6e9
"""Bytes per second from pinned memory over PCIe 3 x8, the slowest bus of rented cards (its standard: 7.9e9)."""


@dataclass(frozen=True)
class Schedule:
    """One forward in the steady state.

    forward_s: its duration. waited_s: the part of it in which the GPU waits for copies. copies: the copied blocks'
    indices, in order.
    """

    forward_s: float
    waited_s: float
    copies: tuple[int, ...]


def schedule(n_blocks: int, streamed: Sequence[int], *, block_s: float, copy_s: float) -> Schedule:
    """The schedule of a forward in the steady state: the last of three in a row, as the first has nothing prefetched.

    streamed: indices of the streamed blocks, ascending. block_s: seconds in which a block computes. copy_s: seconds in
    which its weights are copied.
    """
    slot_of = {index: order % _SLOTS for order, index in enumerate(streamed)}
    following = dict(zip(streamed, [*streamed[1:], *streamed[:1]], strict=True))
    holds: list[int | None] = [None] * _SLOTS
    ready, free = [0.0] * _SLOTS, [0.0] * _SLOTS
    now = bus = began = waited = 0.0
    copies: list[int] = []

    def fetch(index: int) -> None:
        nonlocal bus
        slot = slot_of[index]
        if holds[slot] == index:
            return
        holds[slot] = index
        bus = ready[slot] = max(bus, free[slot]) + copy_s
        copies.append(index)

    for _ in range(_FORWARDS):
        began, waited = now, 0.0
        copies.clear()
        if streamed:
            fetch(streamed[0])
        for index in range(n_blocks):
            if index in slot_of:
                fetch(index)
                slot = slot_of[index]
                waited += max(0.0, ready[slot] - now)
                now = max(now, ready[slot])
                if slot_of[following[index]] != slot:
                    fetch(following[index])
            now += block_s
            if index in slot_of:
                free[slot_of[index]] = now
                if following[index] != index:
                    fetch(following[index])
    return Schedule(now - began, waited, tuple(copies))

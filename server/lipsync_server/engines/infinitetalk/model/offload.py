"""Places the blocks' weights: all on the GPU, or some in host memory, copied to the GPU block by block (streamed).

A streamed block's parameters are views of one of two buffers on the GPU. While one block computes from its buffer, the
next block's bytes are copied from pinned host memory (which the GPU can read without the CPU) into the other, on a
stream of their own: where a block computes longer than its copy takes, streaming costs no time. Memory that cannot be
pinned works too, with a copy that the CPU has to make (models/host_buffers.py). Knows memory and copies. Does not know
what a block computes, nor where its weights come from.
"""

from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lipsync_server.engines.infinitetalk.model.blocks import Block
from lipsync_server.engines.infinitetalk.model.transformer import BlockRunner, InfiniteTalkTransformer, ResidentBlocks
from lipsync_server.models.host_buffers import HostBuffers
from lipsync_server.models.layers.linear_8bit import QuantizedLinear

Offload = Literal["none", "blocks"] | int

_ALIGNMENT = 256
_SLOTS = 2


def materialize(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter that is still on the meta device memory on `device`, in the type it will have."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_meta:
                made = torch.empty(parameter.shape, dtype=_final_dtype(owner, name, parameter, dtype), device=device)
                owner._parameters[name] = nn.Parameter(made, requires_grad=False)


def _final_dtype(owner: nn.Module, name: str, parameter: Tensor, dtype: torch.dtype) -> torch.dtype:
    keeps = isinstance(owner, QuantizedLinear) and name in ("data", "scale")
    return parameter.dtype if keeps else dtype


def streamed_indices(n_blocks: int, n_resident: int) -> list[int]:
    """Indices of the blocks to stream, evenly between the resident ones, so that each copy has time to finish."""
    n_streamed = max(0, n_blocks - max(0, n_resident))
    return [(2 * i + 1) * n_blocks // (2 * n_streamed) for i in range(n_streamed)]


def place_weights(
    model: InfiniteTalkTransformer, device: torch.device, dtype: torch.dtype, offload: Offload, *, pinned: bool = True
) -> BlockRunner:
    """Give a meta model its memory. The runner that comes back is for the model once its weights are filled in.

    pinned: streamed blocks wait in pinned host memory.
    """
    n_resident = {"none": len(model.blocks), "blocks": 0}[offload] if isinstance(offload, str) else offload
    streamed = streamed_indices(len(model.blocks), n_resident)
    runner: BlockRunner = (
        StreamedBlocks(model.blocks, streamed, device, dtype, pinned=pinned)
        if streamed
        else ResidentBlocks(model.blocks)
    )
    materialize(model, device, dtype)
    return runner


class StreamedBlocks:
    """Gives the blocks in order, those in `streamed` from host memory through two device buffers.

    Made on a meta model: it gives the streamed blocks host memory, to be filled by the loader. `bind` then points
    their parameters at the device buffers.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        streamed: list[int],
        device: torch.device,
        dtype: torch.dtype,
        *,
        pinned: bool = True,
    ) -> None:
        self._blocks = [cast(Block, block) for block in blocks]
        self._device = device
        self._cuda = device.type == "cuda"
        self._buffers = HostBuffers(pin=pinned and self._cuda)
        self._streamed = streamed
        self._slot_of = {index: order % _SLOTS for order, index in enumerate(streamed)}
        self._next = {index: streamed[(order + 1) % len(streamed)] for order, index in enumerate(streamed)}
        self._host = {index: self._to_host(self._blocks[index], dtype) for index in streamed}
        self._slots: list[Tensor] = []
        self._holds: list[int | None] = [None] * _SLOTS
        self._copies = torch.cuda.Stream(device) if self._cuda else None
        self._ready = [torch.cuda.Event() if self._cuda else None for _ in range(_SLOTS)]
        self._free = [torch.cuda.Event() if self._cuda else None for _ in range(_SLOTS)]

    def _to_host(self, block: Block, dtype: torch.dtype) -> Tensor:
        """One flat buffer for a block; its parameters become views of it."""
        layout = self._layout(block, dtype)
        buffer = self._buffers.empty(layout[-1][-1])
        for owner, name, shape, final, begin, end in layout:
            owner._parameters[name] = nn.Parameter(buffer[begin:end].view(final).view(shape), requires_grad=False)
        return buffer

    @staticmethod
    def _layout(block: Block, dtype: torch.dtype) -> list[tuple[nn.Module, str, torch.Size, torch.dtype, int, int]]:
        """The places of a block's parameters in its buffer: (owner, name, shape, dtype, first byte, end byte) each."""
        layout, offset = [], 0
        for owner in block.modules():
            for name, parameter in owner._parameters.items():
                if parameter is None:
                    continue
                final = _final_dtype(owner, name, parameter, dtype)
                end = offset + parameter.numel() * final.itemsize
                layout.append((owner, name, parameter.shape, final, offset, end))
                offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        return layout

    def bind(self) -> None:
        """Point the streamed blocks' parameters at the device buffers; their host memory is filled by now."""
        if not self._slots:
            size = max(buffer.numel() for buffer in self._host.values())
            self._slots = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(_SLOTS)]
        for index in self._streamed:
            host, slot = self._host[index], self._slots[self._slot_of[index]]
            for parameter in self._blocks[index].parameters():
                begin = parameter.data_ptr() - host.data_ptr()
                part = slot[begin : begin + parameter.numel() * parameter.element_size()]
                parameter.data = part.view(parameter.dtype).view(parameter.shape)
        if self._cuda:
            for event in self._free:
                cast(torch.cuda.Event, event).record(torch.cuda.current_stream(self._device))

    def unbind(self) -> None:
        """Point the streamed blocks' parameters at host memory again, to be written there; `bind` comes next."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        self._holds = [None] * _SLOTS
        for index in self._streamed:
            host, slot = self._host[index], self._slots[self._slot_of[index]]
            for parameter in self._blocks[index].parameters():
                begin = parameter.data_ptr() - slot.data_ptr()
                part = host[begin : begin + parameter.numel() * parameter.element_size()]
                parameter.data = part.view(parameter.dtype).view(parameter.shape)

    def __iter__(self) -> Iterator[Block]:
        self._fetch(self._streamed[0])
        for index, block in enumerate(self._blocks):
            slot = self._slot_of.get(index)
            if slot is None:
                yield block
                continue
            self._fetch(index)
            if self._cuda:
                torch.cuda.current_stream(self._device).wait_event(cast(torch.cuda.Event, self._ready[slot]))
            if self._next[index] != index and self._slot_of[self._next[index]] != slot:
                self._fetch(self._next[index])
            try:
                yield block
            finally:
                if self._cuda:
                    cast(torch.cuda.Event, self._free[slot]).record(torch.cuda.current_stream(self._device))
            # With an odd number of streamed blocks the last one shares its buffer with the first of the next forward.
            if self._next[index] != index and self._slot_of[self._next[index]] == slot:
                self._fetch(self._next[index])

    def _fetch(self, index: int) -> None:
        """Start copying a block into its buffer, once the block that used the buffer before has computed."""
        slot, host = self._slot_of[index], self._host[index]
        if self._holds[slot] == index:
            return
        self._holds[slot] = index
        target = self._slots[slot][: host.numel()]
        if self._copies is None:
            target.copy_(host)
            return
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(cast(torch.cuda.Event, self._free[slot]))
            target.copy_(host, non_blocking=True)
            cast(torch.cuda.Event, self._ready[slot]).record(self._copies)

    def close(self) -> None:
        """Free the host and device buffers."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        self._host.clear()
        self._slots.clear()
        self._buffers.release()

"""Computes the number of transformer blocks that stay on the GPU, from sizes alone, before anything is loaded.

    free GPU memory  >= weights on the GPU + working memory + a fixed part
    working memory    = that of a forward or of the decoder, whichever is larger
    free host memory >= blocks that wait there + a fixed part

Each block that does not fit waits in host memory and crosses the bus in every forward (model/offload.py). Host memory
is pinned for that where it suffices: the kernel may not move pinned pages, so the GPU reads them by itself, but torch
rounds a pinned buffer up to a power of two. With memory to spare, keys and values of text, picture and sound are kept
for a window, and CLIP stays on the GPU. The peaks per token and per pixel were measured on an H100
(docs/performance.md). Knows the sizes of a configuration. Loads nothing and queries no device: the caller passes the
free memory (planner.py).
"""

from dataclasses import dataclass, replace
from math import prod

from lipsync_server.engines.infinitetalk.loading.transformer_files import official_shapes
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.quantization import Quantization

GIB = 2**30
# Working memory of one forward in bytes per token and model width, and of the VAE's decoder in bytes per pixel.
_FORWARD_BYTES: dict[Quantization, int] = {"none": 28, "fp8": 24, "int8": 24}
_FORWARD_BYTES_EAGER = 48
_DECODE_BYTES = 12_500
# A fixed part for CUDA's own context (which torch does not count), wav2vec2, the VAE's weights and fragmentation.
_FIXED_BYTES = int(1.25 * GIB)
_CLIP_BYTES = int(1.3 * GIB)
# Host memory of the process beside blocks and encoders: CUDA's own share, torch's compiler, a layer of the text
# encoder, a tensor unpacked to float32, and the frames of a window.
_HOST_FIXED_BYTES = 3 * GIB
# Two device buffers through which streamed blocks pass.
_STREAM_SLOTS = 2
_LATENTS = 21


@dataclass(frozen=True)
class MemoryPlan:
    """The parts of the transformer that stay on the GPU.

    resident_blocks: count of the `n_blocks` blocks that stay on the device. cache_context: whether keys and values of
    text, picture and sound are kept for a whole window. keep_encoders: whether CLIP stays on the device between jobs.
    weights_bytes: of all blocks and the rest of the transformer. block_bytes: of one block. host_fixed_bytes: host
    memory that is needed for any number of resident blocks. pinned: whether waiting blocks are in pinned host memory.
    """

    resident_blocks: int
    n_blocks: int
    cache_context: bool
    keep_encoders: bool
    weights_bytes: int
    working_bytes: int
    free_bytes: int | None
    block_bytes: int
    host_fixed_bytes: int
    pinned: bool = True

    @property
    def waiting_bytes(self) -> int:
        """Host memory of the blocks that are streamed to the GPU."""
        each = 1 << (self.block_bytes - 1).bit_length() if self.pinned else self.block_bytes
        return (self.n_blocks - self.resident_blocks) * each

    @property
    def least_device_bytes(self) -> int:
        """GPU memory that is needed with this plan's resident blocks: weights, buffers of streamed blocks, work."""
        others = self.weights_bytes - self.n_blocks * self.block_bytes
        slots = _STREAM_SLOTS if self.resident_blocks < self.n_blocks else 0
        return others + (self.resident_blocks + slots) * self.block_bytes + self.working_bytes

    @property
    def host_bytes(self) -> int:
        """Host memory that has to be free before the transformer is loaded."""
        return self.waiting_bytes + self.host_fixed_bytes

    @property
    def line(self) -> str:
        """The decision in one sentence, for the log."""
        if self.free_bytes is None:
            return f"all {self.n_blocks} blocks in host memory ({self.weights_bytes / GIB:.1f} GiB of weights)"
        where = (
            "all blocks resident"
            if self.resident_blocks == self.n_blocks
            else f"{self.resident_blocks} of {self.n_blocks} blocks resident, the others streamed from "
            f"{self.waiting_bytes / GIB:.1f} GiB of {'pinned' if self.pinned else 'plain'} host memory"
        )
        return (
            f"{where}: {self.weights_bytes / GIB:.1f} GiB of weights, {self.working_bytes / GIB:.1f} GiB to work in, "
            f"{self.free_bytes / GIB:.1f} GiB free"
        )

    def with_at_most(self, resident_blocks: int) -> "MemoryPlan":
        """The plan for the time after memory ran out.

        The same plan with at most `resident_blocks` blocks on the GPU, the context cache off and CLIP moved to the host
        between jobs.
        """
        fewer = min(self.resident_blocks, resident_blocks)
        return replace(self, resident_blocks=fewer, cache_context=False, keep_encoders=False)


def weight_bytes(config: TransformerConfig, *, eight_bit: bool, float_bytes: int = 2) -> tuple[int, int]:
    """Bytes of one block, and of everything outside the blocks.

    eight_bit: the linear layers of the blocks hold 8 bits a weight. float_bytes: bytes of every other weight, 2 on a
    GPU and 4 on the CPU.
    """
    block = others = 0
    for name, shape in official_shapes(config).items():
        if not name.startswith("blocks."):
            others += float_bytes * prod(shape)
        elif name.startswith("blocks.0."):
            block += prod(shape) * (1 if eight_bit and len(shape) == 2 and name.endswith(".weight") else float_bytes)
    return block, others


def plan(
    config: TransformerConfig,
    *,
    quant: Quantization,
    pixels: int,
    passes: int,
    compiled: bool,
    free_bytes: int | None,
    offload: str = "auto",
    with_encoders: bool = False,
) -> MemoryPlan:
    """Plan the places of the blocks for videos of `pixels` (height x width) and `passes` forwards a step.

    quant: how the blocks' linear layers hold their weights, whether a file or we rounded them; "none" is 16 bits.
    free_bytes: memory that this process may still take on the device; None on the CPU, where all of it is resident.
    offload: "none" keeps every block on the device, "blocks" streams all of them.
    with_encoders: CLIP is not in host memory yet, so that room for it is needed there too.
    """
    on_gpu = free_bytes is not None
    block, others = weight_bytes(config, eight_bit=quant != "none", float_bytes=2 if on_gpu else 4)
    n_blocks, total = config.num_layers, block * config.num_layers + others
    tokens = _LATENTS * pixels // 256
    forward = tokens * config.dim * (_FORWARD_BYTES[quant] if compiled else _FORWARD_BYTES_EAGER)
    tokens_of_context = config.text_len + 257 + _LATENTS * config.context_tokens
    context = passes * n_blocks * tokens_of_context * 2 * config.dim * 2
    lean = max(forward, pixels * _DECODE_BYTES) + _FIXED_BYTES

    # On the CPU all weights are in host memory, and its fixed part is left out: tests run tiny models on any machine.
    host_fixed = (_HOST_FIXED_BYTES + (_CLIP_BYTES if with_encoders else 0)) if on_gpu else total

    def made(resident: int, cache_context: bool, keep_encoders: bool) -> MemoryPlan:
        working = lean + (context if cache_context else 0) + (_CLIP_BYTES if keep_encoders else 0)
        return MemoryPlan(
            resident, n_blocks, cache_context, keep_encoders, total, working, free_bytes, block, host_fixed
        )

    if free_bytes is None:
        return made(n_blocks, True, True)
    rich = made(n_blocks, True, True)
    if offload != "blocks" and total + rich.working_bytes <= free_bytes:
        return rich
    if offload == "none" or (offload == "auto" and total + lean <= free_bytes):
        return made(n_blocks, False, False)
    if offload == "blocks":
        return made(0, False, False)
    room = free_bytes - lean - others - _STREAM_SLOTS * block
    return made(max(0, min(n_blocks - 1, room // block)), False, False)

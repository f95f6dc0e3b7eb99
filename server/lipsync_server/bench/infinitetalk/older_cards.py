"""Runs the code of older cards on this card and compares each result with the native code's, bit for bit.

The kernels for compute capability 8.0, 8.6 and 8.9 are compiled to PTX, NVIDIA's portable assembly. The driver of any
newer card translates PTX to its own machine code, so the very instructions chosen for an A100, an RTX 3090 or an RTX
4090 run here. Their speed here is this card's and not theirs.

Knows self-attention in int8 and the int8 product, and how Triton's PTX is launched without Triton. Needs an NVIDIA GPU
of compute capability 8.9 or newer.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from lipsync_server.bench.clock import Clock, median
from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.record import Numbers, say
from lipsync_server.models.kernels import attention, nvrtc

CAPABILITIES = {80: "8.0", 86: "8.6", 89: "8.9"}
"""Compute capability times 10 -> as NVIDIA writes it."""
_HOPPER = 90
_ATTENTION = "int8_both"
_TIMED_RUNS = 5
_SMALL_TOKENS, _SMALL_WIDTH, _SMALL_HEADS = 1_000, 512, 3


def older_cards(bench: Bench, found: Numbers) -> None:
    """Fill in a part for each kernel: seconds of the native code, and for each older card seconds and equality."""
    if not bench.cuda:
        found["missing"] = "it needs an NVIDIA GPU"
        return
    height, width = bench.scale.picture
    n = bench.scale.n_latents * height * width // 256
    inner = bench.config.dim
    for tokens in (_SMALL_TOKENS, n):
        heads = _SMALL_HEADS if tokens == _SMALL_TOKENS else bench.config.num_heads
        bench.part(found, f"attention_int8, {tokens} tokens", partial(_attentions, bench, tokens, heads))
        columns = _SMALL_WIDTH if tokens == _SMALL_TOKENS else inner
        for tile in tiles():
            name = f"int8_product {tile}, {tokens} x {columns} x {columns}"
            bench.part(found, name, partial(_products, bench, tokens, columns, tile))


def _attentions(bench: Bench, tokens: int, heads: int, part: Numbers) -> None:
    _compare(bench, part, attention_runs(tokens, heads, bench.device))


def _products(bench: Bench, rows: int, columns: int, tile: str, part: Numbers) -> None:
    _compare(bench, part, product_runs(rows, columns, tile, bench.device))


def _compare(bench: Bench, part: Numbers, runs: dict[str, Callable[[], Tensor]]) -> None:
    """Run the native code and each other, and note seconds and whether all bits are equal."""
    clock = Clock(bench.device, _TIMED_RUNS)
    wanted = runs["native"]()
    for name, run in runs.items():
        difference = (run().float() - wanted.float()).abs().max().item()
        one = {"equal": torch.equal(run(), wanted), "largest_difference": difference, "s": median(clock.seconds(run))}
        part[name] = one
        say(f"{name}: {one}")


def attention_runs(tokens: int, heads: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Attention in int8 on the same random inputs, by the code of each card: `native`, `8.0`, `8.6` and `8.9`."""
    random = torch.Generator(device).manual_seed(4)
    q, k, v = (
        torch.randn(1, tokens, heads, attention.OUR_HEAD_DIM, generator=random, device=device).bfloat16()
        for _ in range(3)
    )
    native = partial(attention.KERNELS[_ATTENTION], q, k, v)

    def built(capability: int) -> Tensor:
        # The driver translates PTX for an older card to this card's machine code.
        with mock.patch.object(nvrtc, "native_architecture", lambda index: f"compute_{capability}"):
            return native()

    runs: dict[str, Callable[[], Tensor]] = {"native": native}
    for capability, name in CAPABILITIES.items():
        runs[name] = partial(built, capability)
    return runs


def tiles(capability: int = _HOPPER) -> tuple[str, ...]:
    """The tiles of the int8 product that the shared memory of a card holds."""
    from lipsync_server.models.ahead_of_time import SHARED_KIB
    from lipsync_server.models.kernels import int8_product  # needs Triton

    held_bytes = SHARED_KIB[capability] * 1024
    return tuple(tile for tile in int8_product.TILES if int8_product.least_shared_bytes(tile) <= held_bytes)


def product_runs(rows: int, columns: int, tile: str, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """The int8 product of random matrices by the code of each card whose shared memory holds the tile.

    rows, columns: of the result; `columns` numbers are summed for each.
    """
    from lipsync_server.models.kernels import int8_product

    random = torch.Generator(device).manual_seed(5)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, generator=random, device=device, dtype=torch.int8)

    def scales(n: int) -> Tensor:
        return torch.rand(n, 1, generator=random, device=device) / 100 + 0.001

    x, w, x_scale, w_scale = integers(rows, columns), integers(columns, columns), scales(rows), scales(columns)
    bias = torch.randn(columns, generator=random, device=device).bfloat16()
    runs: dict[str, Callable[[], Tensor]] = {
        "native": partial(int8_product.launch, x, w, x_scale, w_scale, bias, tile)
    }  # fmt: skip
    for capability, name in CAPABILITIES.items():
        if tile not in tiles(capability):
            continue
        code = product_code(capability, rows, columns, tile)
        kernel = nvrtc.load(code.ptx, code.name, device)
        runs[name] = partial(_launch_product, kernel, code, (x, w, x_scale, w_scale, bias), tile)
    return runs


@dataclass(frozen=True)
class TritonCode:
    """A Triton kernel as PTX, with the threads and the shared memory in bytes of each block of a launch."""

    name: str
    ptx: bytes
    n_threads: int
    shared_bytes: int

    @property
    def n_parameters(self) -> int:
        """The number of parameters of the entry. The last two are Triton's scratch pointers."""
        return len(set(re.findall(rf"\.param \S+ .*?({self.name}_param_\d+)", self.ptx.decode())))


def product_code(capability: int, rows: int, columns: int, tile: str) -> TritonCode:
    """The int8 product compiled by Triton for an absent card, for these sizes. No GPU is needed."""
    from lipsync_server.models import ahead_of_time
    from lipsync_server.models.kernels import int8_product

    compiled = int8_product._product.device_caches
    # Triton keeps kernels by the number of the device; the stand-in's number is the capability.
    compiled.pop(capability, None)
    with ahead_of_time.absent_gpu(capability), torch.device("meta"):
        x, w = torch.empty(rows, columns, dtype=torch.int8), torch.empty(columns, columns, dtype=torch.int8)
        bias = torch.empty(columns, dtype=torch.bfloat16)
        int8_product.launch(x, w, torch.empty(rows, 1), torch.empty(columns, 1), bias, tile)
    (kernel,) = compiled[capability][0].values()
    metadata = kernel.metadata
    return TritonCode(kernel.name, kernel.asm["ptx"].encode() + b"\0", 32 * metadata.num_warps, metadata.shared)


def _launch_product(kernel: Any, code: TritonCode, inputs: tuple[Tensor, ...], tile: str) -> Tensor:
    """Launch the PTX as Triton launches its kernel: pointers, sizes, and two scratch pointers, which are not used."""
    from lipsync_server.models.kernels import int8_product

    x, w = inputs[:2]
    (m, k), n = x.shape, w.shape[0]
    out = torch.empty(m, n, dtype=torch.bfloat16, device=x.device)
    pointers = [*inputs, out]
    tile_rows, tile_columns = int8_product.TILES[tile][:2]
    blocks = -(-m // tile_rows) * -(-n // tile_columns)
    nvrtc.start(kernel, (blocks, 1), code.n_threads, code.shared_bytes, [*pointers, m, n, k, None, None], x.device)
    return out

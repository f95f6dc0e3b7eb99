"""Compile the Triton kernels for GPUs that this machine does not have, into Triton's cache: `python -m ...

80 86 89 90 120`.

Triton compiles a kernel at its first launch, 0.5 to 2 s each on a rented machine, and keeps the machine code in a
folder (TRITON_CACHE_DIR) under a key of the source, the arguments' types and the GPU. The compiler needs no GPU. This
module calls the project's own functions with tensors without memory (torch's device "meta"). A stand-in replaces
NVIDIA's driver and knows only the GPU's name, so each launch compiles a kernel and starts nothing. The image contains
the result. Other arguments, such as a token count that is no multiple of 16, are compiled at their first use.

The widths are those of InfiniteTalk (5,120) and FlashHead (1,536). Does not know the engines.
"""

# mypy: disable-error-code="no-untyped-call"

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from lipsync_server.models.kernels import attention_rounded, fused, int8_product, int8_rounding, tile_rounding
from lipsync_server.models.kernels.rope import RotaryTable
from lipsync_server.models.wan_vae.vae import WanVae, build
from lipsync_server.quantization import EightBit

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Compute capability x 10 -> shared memory of one block of threads in KiB (CUDA C++ Programming Guide)."""
_FP8 = 89
_HOPPER = 90
_TOKENS = 33_600
_HEAD_DIM = 128
_FORMATS = ((80, 80), (60, 104), (104, 60))
"""Rows and columns of latents: a square picture, a wide and a tall one, at 480p."""
_SHORT, _LONG = 3, 5
"""Latent frames: enough that every layer of the VAE runs with and without earlier frames."""


@dataclass(frozen=True)
class Launched:
    """A kernel's machine code, and the threads and the shared memory in bytes of each block of a launch."""

    name: str
    cubin: bytes
    n_threads: int
    shared_bytes: int


class AbsentGpu:
    """A stand-in for Triton's DriverBase, for a GPU that this machine does not have.

    compiled: the machine code of every kernel that was launched on it, by the kernel's name. launched: the same with
    the sizes of a launch.
    """

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self.compiled: dict[str, list[Any]] = {}
        self.launched: list[Launched] = []
        self._n_threads = 0
        # Triton asks `utils` for the GPU's properties and has it load machine code.
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """Return a number for each capability, because Triton stores compiled kernels by the device's number."""
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("there is no GPU to measure")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.shared_bytes}

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block of threads can have."""
        return SHARED_KIB[self._capability] * 1024

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[str, str, int, int, int]:
        self.compiled.setdefault(name, []).append(cubin)
        self.launched.append(Launched(name, cubin, self._n_threads, shared))
        return name, name, 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Triton asks for the launcher of a kernel just before it has the kernel loaded."""
        self._n_threads = 32 * metadata.num_warps
        return lambda *arguments: None


@contextmanager
def absent_gpu(capability: int) -> Iterator[AbsentGpu]:
    """Inside this context Triton compiles for a GPU of this compute capability (x 10), and launches do nothing."""
    config = triton.runtime.driver
    before, driver = config._active, AbsentGpu(capability)
    config.set_active(driver)
    try:
        yield driver
    finally:
        config.set_active(before)


def compile_all(capability: int) -> AbsentGpu:
    """Compile every kernel for one GPU, with the arguments of a usual job."""
    with absent_gpu(capability) as gpu, torch.device("meta"):
        kinds: tuple[EightBit | None, ...] = (None, "int8", "fp8") if capability >= _FP8 else (None, "int8")
        for kind in kinds:
            _passes(5_120, 13_824, 40, kind)
        _passes(1_536, 8_960, 12, None)
        _products(5_120, 13_824, gpu)
        for heads in (40, 12):
            _roundings(heads, hopper=capability == _HOPPER)
        _vae()
    return gpu


def _bf16(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16)


def _passes(width: int, hidden: int, heads: int, kind: EightBit | None) -> None:
    """Compile the fused passes between the products of a block (layers/fast.py)."""
    x, vector = _bf16(_TOKENS, width), torch.empty(width, dtype=torch.float32)
    weight = _bf16(width)
    for y, gate in ((None, None), (x, vector), (x, None)):
        fused.norm(x, y, gate, vector, vector, 1e-6, kind, plus_one=True)
    for gate in (vector, None):
        fused.norm(x, x, gate, weight, weight, 1e-6, kind)
    fused.sum_of(x, None, kind)
    fused.sum_of(x, x, kind)
    if kind is not None:
        fused.gelu(_bf16(_TOKENS, hidden), kind)
    q = _bf16(_TOKENS, 3 * width)[:, :width]
    fused.heads_bf16(q, weight, 1e-6, heads, _rope())
    fused.heads_bf16(x, weight, 1e-6, heads, None)


def _products(width: int, hidden: int, gpu: AbsentGpu) -> None:
    """Compile the int8 products of a block in every tile whose shared memory this GPU has (int8_product.py)."""
    for k, n, biased in ((width, 3 * width, True), (hidden, width, True), (width, width, False)):
        rows = torch.empty(_TOKENS, k, dtype=torch.int8), torch.empty(n, k, dtype=torch.int8)
        scales = torch.empty(_TOKENS, 1, dtype=torch.float32), torch.empty(n, 1, dtype=torch.float32)
        for tile in int8_product.TILES:
            if int8_product.least_shared_bytes(tile) <= gpu.shared_bytes:
                int8_product.launch(*rows, *scales, _bf16(n) if biased else None, tile)


def _roundings(heads: int, *, hopper: bool) -> None:
    """Compile the rounding of queries, keys and values to 8 bits (attention_rounded.py)."""
    width = heads * _HEAD_DIM
    q = _bf16(_TOKENS, 3 * width)[:, :width]
    weight, centre = _bf16(width), torch.empty(heads, _HEAD_DIM, dtype=torch.float32)
    values = q.unflatten(-1, (heads, -1))
    fused.queries_int8(q, weight, 1e-6, heads, _rope())
    attention_rounded.centre_of(q, heads, weight, 1e-6, _rope())
    attention_rounded.centre_of(q, heads)
    int8_rounding.keys_int8(q, weight, 1e-6, heads, _rope(), centre)
    int8_rounding.values_int8(values, centre)
    if hopper:
        tile_rounding.keys_int8(q, weight, 1e-6, heads, _rope(), centre)
        tile_rounding.values_fp8(values, centre)


def _rope() -> RotaryTable:
    table = torch.empty(_TOKENS, _HEAD_DIM // 2, dtype=torch.float32)
    return RotaryTable(table, table)


def _vae() -> None:
    """Compile decoding and encoding at the published width and size.

    The convolutions cost no time, as the tensors have no memory.
    """
    vae = WanVae(build().to(torch.bfloat16), torch.device("meta"), torch.bfloat16, kernels=True, channels_last=True)
    for rows, columns in _FORMATS:
        for _ in vae.decode(torch.empty(16, _SHORT, rows, columns)):
            pass
        vae.encode_picture(torch.empty(3, 8 * rows, 8 * columns), _LONG)


if __name__ == "__main__":
    for word in sys.argv[1:]:
        began = time.monotonic()
        gpu = compile_all(int(word))
        n_kernels = sum(map(len, gpu.compiled.values()))
        sys.stdout.write(f"sm_{word}: {n_kernels} kernels in {time.monotonic() - began:.0f} s\n")

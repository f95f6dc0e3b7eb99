"""Compiles every kernel for cards that are not here, and writes the resources of each into a JSON file.

    python -m lipsync_server.bench.compiled_kernels docs/performance/compiled-kernels.json

No GPU is needed. The figures are read from the machine code itself: registers of a thread, shared memory of a block,
instructions of the tensor cores in the code (a loop's body counts once), and from these the occupancy, which is the
share of a multiprocessor's threads that can be resident. Knows the limits of each compute capability. Measures no time.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton

from lipsync_server.models import ahead_of_time
from lipsync_server.models.ahead_of_time import Launched
from lipsync_server.models.kernels import attention_8bit, attention_bf16, attention_int8, int8_product, nvrtc

# Capability x 10 -> KiB of shared memory and threads of one multiprocessor (CUDA C++ Programming Guide).
_MULTIPROCESSOR = {
    80: (164, 2048),
    86: (100, 1536),
    89: (100, 1536),
    90: (228, 2048),
    100: (228, 2048),
    120: (100, 1536),
}
_REGISTERS = 65_536
_BLOCK_OVERHEAD_BYTES = 1024
_TENSOR_CORES = re.compile(r"\b(?:[IHQOD]MMA|[IHQ]GMMA|UTC[IHQO]MMA)\b")
_HOPPER = 90
_ROWS, _INNER, _COLUMNS = 33_600, 5_120, 15_360


@dataclass(frozen=True)
class Resources:
    """The resources of one compiled kernel.

    registers: of a thread. shared_bytes: shared memory of a block. spilled_bytes: slow memory of a thread.
    tensor_instructions: tensor-core instructions in the code. n_threads: of a block. blocks: that are resident in one
    multiprocessor at once. occupancy: the share of a multiprocessor's threads that can be resident, 0 to 1.
    """

    registers: int
    shared_bytes: int
    spilled_bytes: int
    tensor_instructions: int
    n_threads: int
    blocks: int
    occupancy: float


def main() -> None:
    """Compile every kernel for each capability and write the resources to the file on the command line."""
    found = {str(capability): resources_on(capability) for capability in _MULTIPROCESSOR}
    content = {
        "compiled": {
            "triton": triton.__version__,
            "on": {
                capability: {name: asdict(one) for name, one in kernels.items()}
                for capability, kernels in found.items()
            },
        }
    }
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def resources_on(capability: int) -> dict[str, Resources]:
    """The resources of every kernel by its name. Of several forms of a kernel, the one with the most registers counts.

    capability: compute capability times 10, 90 for 9.0.
    """
    found: dict[str, Resources] = {}
    for name, kernel in [*_products(capability), *_cuda(capability), *_triton(capability)]:
        one = resources_of(kernel, capability)
        if name not in found or one.registers > found[name].registers:
            found[name] = one
    return found


def resources_of(kernel: Launched, capability: int) -> Resources:
    """Read the resources of a kernel's machine code."""
    listing = _cuobjdump(kernel.cubin, "--dump-resource-usage")
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", listing)}
    shared = max(usage["SHARED"], kernel.shared_bytes)
    shared_kib, n_threads = _MULTIPROCESSOR[capability]
    by_registers = _REGISTERS // (-(-usage["REG"] // 8) * 8 * kernel.n_threads)
    by_shared = shared_kib * 1024 // (shared + _BLOCK_OVERHEAD_BYTES)
    blocks = min(by_registers, by_shared, n_threads // kernel.n_threads)
    return Resources(
        registers=usage["REG"],
        shared_bytes=shared,
        spilled_bytes=usage["STACK"],
        tensor_instructions=len(_TENSOR_CORES.findall(_cuobjdump(kernel.cubin, "-sass"))),
        n_threads=kernel.n_threads,
        blocks=blocks,
        occupancy=round(blocks * kernel.n_threads / n_threads, 2),
    )


def _products(capability: int) -> list[tuple[str, Launched]]:
    """The int8 product in every tile that fits the card."""
    import torch  # tensors without memory

    found = []
    for tile in int8_product.TILES:
        with ahead_of_time.absent_gpu(capability) as gpu, torch.device("meta"):
            if int8_product.least_shared_bytes(tile) > gpu.shared_bytes:
                continue
            x, weight = torch.empty(_ROWS, _INNER, dtype=torch.int8), torch.empty(_COLUMNS, _INNER, dtype=torch.int8)
            x_scale, scale = torch.empty(_ROWS, 1), torch.empty(_COLUMNS, 1)
            int8_product.launch(x, weight, x_scale, scale, torch.empty(_COLUMNS, dtype=torch.bfloat16), tile)
            found += [(f"int8 product {tile}", one) for one in gpu.launched]
    return found


def _cuda(capability: int) -> list[tuple[str, Launched]]:
    """Our CUDA kernels: int8 attention everywhere, the others on Hopper."""
    int8 = attention_int8.THREADS, attention_int8.SHARED_BYTES
    sources: list[tuple[str, str, dict[str, int], tuple[int, int]]] = [("attention_int8", "attention_int8", {}, int8)]
    if capability == _HOPPER:
        n_tiles = -(-_ROWS // attention_8bit.TILE)
        for word, eight_bit in (("int8 scores, bf16 values", False), ("int8 scores, fp8 values", True)):
            constants, *launch = attention_8bit.compiled_form(eight_bit, n_tiles)
            sources.append((f"attention_8bit, {word}", "attention_8bit", constants, (launch[0], launch[1])))
        sources.append(("attention_bf16", "attention_bf16", {}, (attention_bf16.THREADS, attention_bf16.SHARED_BYTES)))
    architecture = f"sm_{capability}{'a' if capability == _HOPPER else ''}"
    return [
        (word, Launched(name, nvrtc.compile_for(architecture, name, constants)[0], *launch))
        for word, name, constants, launch in sources
    ]


def _triton(capability: int) -> list[tuple[str, Launched]]:
    """Our Triton kernels without the int8 product, which `_products` compiles."""
    launched = ahead_of_time.compile_all(capability).launched
    return [(one.name.strip("_"), one) for one in launched if one.name != "_product"]


def _cuobjdump(cubin: bytes, option: str) -> str:
    """The output of NVIDIA's tool cuobjdump, which Triton contains, for one cubin."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()

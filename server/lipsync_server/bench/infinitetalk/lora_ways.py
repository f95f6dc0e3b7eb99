"""Measures three ways to give a layer a job's LoRA file and to take it away again: time, memory, exactness.

    python -m lipsync_server.bench.infinitetalk.lora_ways [--device cuda] [--size 5120x5120 --size 13824x5120]

A layer holds its weight in int8 with a scale for each row. The three ways:

reread    Merge the change into the float weight and round it again. To take it away, read the base weight from the
          model file again. This is what the engine does (loading/switch_lora.py).
kept      The same, but the base weight's int8 rows stay in host memory, and are copied back.
unmerged  Leave the weight alone and add up (down x) to the product at each forward.

Each figure is one JSON line for one layer. The last line is computed from them for the whole transformer. Knows one
layer. Does not know how the engine switches.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.engines.infinitetalk.loading.transformer_files import official_shapes
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.kernels.product_8bit import multiply_8bit
from lipsync_server.models.kernels.rounding import dequantize_rows, quantize_rows
from lipsync_server.models.tensor_files.safetensors_files import WeightFiles
from lipsync_server.models.tensor_files.writer import write_tensors

RANK = 64
N_SWITCHES = 10
_REPEATS = 3


@dataclass(frozen=True)
class LayerCosts:
    """Costs of one layer (rows, columns). _s: seconds for one switch to the LoRA and back, or for one forward.

    exact: whether the weight after N_SWITCHES switches has the bytes of before. lora_bytes: the two factors in bf16.
    """

    rows: int
    columns: int
    reread_s: float
    kept_s: float
    product_s: float
    unmerged_s: float
    n_tokens: int
    exact: bool

    @property
    def kept_bytes(self) -> int:
        """Host memory for the base weight: int8 and a float32 scale for each row."""
        return self.rows * self.columns + 4 * self.rows

    @property
    def lora_bytes(self) -> int:
        return 2 * RANK * (self.rows + self.columns)


@torch.no_grad()
def measure(rows: int, columns: int, n_tokens: int, device: torch.device, folder: Path) -> LayerCosts:
    """Measure one layer with random numbers. folder: for its model file, which stays in the page cache."""
    random = torch.Generator().manual_seed(rows)
    base, scale = quantize_rows(torch.randn(rows, columns, generator=random) * columns**-0.5, "int8")
    path = folder / f"{rows}x{columns}.safetensors"
    write_tensors(path, {"data": base, "scale": scale}, iter([("data", base), ("scale", scale)]))
    # The engine computes in bf16 on a GPU and in float32 on a CPU.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    factors = torch.randn(RANK, rows + columns, generator=random).to(dtype) * 0.01
    up, down = factors[:, :rows].t().contiguous().to(device), factors[:, rows:].contiguous().to(device)
    data, row_scale = base.to(device), scale.to(device)
    before = data.clone()

    def merge(stored: Tensor, its_scale: Tensor) -> None:
        weight = dequantize_rows(stored.to(device), its_scale.to(device), torch.float32) + up.float() @ down.float()
        merged, merged_scale = quantize_rows(weight, "int8")
        data.copy_(merged)
        row_scale.copy_(merged_scale)

    def restore(stored: Tensor, its_scale: Tensor) -> None:
        data.copy_(stored)
        row_scale.copy_(its_scale)

    def reread() -> None:
        for put in (merge, restore):
            for _, file in WeightFiles([path]):
                put(file.tensor("data"), file.tensor("scale"))

    def kept() -> None:
        merge(base, scale)
        restore(base, scale)

    x = torch.randn(n_tokens, columns, generator=random).to(device, dtype)

    def product() -> Tensor:
        return multiply_8bit(x, data, row_scale, None, "int8")

    def unmerged() -> Tensor:
        return product() + (x @ down.t()) @ up.t()

    reread_s, kept_s = _seconds(reread, device), _seconds(kept, device)
    for _ in range(N_SWITCHES):
        reread()
    exact = torch.equal(data, before) and torch.equal(row_scale.cpu(), scale)
    return LayerCosts(
        rows, columns, reread_s, kept_s, _seconds(product, device), _seconds(unmerged, device), n_tokens, exact
    )


def whole(costs: Iterable[LayerCosts], config: TransformerConfig) -> dict[str, float]:
    """Computed for every linear layer of the blocks: each takes the costs per number of the measured layers together.

    unmerged_share: the time that an unmerged LoRA adds to a product, as a share of it.
    """
    measured = list(costs)
    n_measured = sum(one.rows * one.columns for one in measured)
    shapes = [
        shape
        for name, shape in official_shapes(config).items()
        if name.startswith("blocks.") and len(shape) == 2 and name.endswith(".weight")
    ]
    n_numbers = sum(rows * columns for rows, columns in shapes)
    times = n_numbers / n_measured
    product_s = sum(one.product_s for one in measured)
    return {
        "reread_s": times * sum(one.reread_s for one in measured),
        "kept_s": times * sum(one.kept_s for one in measured),
        "kept_host_gb": sum(rows * columns + 4 * rows for rows, columns in shapes) / 1e9,
        "unmerged_gb": sum(2 * RANK * (rows + columns) for rows, columns in shapes) / 1e9,
        "unmerged_share": sum(one.unmerged_s for one in measured) / product_s - 1,
    }


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """The shortest of some runs, after one to warm up."""
    taken = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Three ways to apply a LoRA file, measured on one layer.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--size", action="append", default=[], help="rows x columns, such as 13824x5120")
    given = parser.parse_args(arguments)
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for size in given.size or ["5120x5120", "13824x5120"]:
            rows, columns = map(int, size.split("x"))
            one = measure(rows, columns, given.tokens, torch.device(given.device), Path(folder))
            costs.append(one)
            sys.stdout.write(json.dumps(vars(one) | {"kept_mb": one.kept_bytes / 1e6, "lora_mb": one.lora_bytes / 1e6}))
            sys.stdout.write("\n")
    sys.stdout.write(json.dumps({"whole transformer, computed": whole(costs, TransformerConfig())}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Every layout in which a transformer's files are read: how to write one, and how far its output may be off.

The errors that a run of the tests saw are in docs/model-files.md (LIPSYNC_LAYOUT_TABLE, golden_table.py).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from golden_table import GoldenTable
from lipsync_server.models.tensor_files.quanto import quantized_tensors
from lipsync_server.quantization import EightBit
from lipsync_server.random_models.other_layouts import save_gguf, save_int8, save_scaled_fp8, save_single
from safetensors.torch import save_file
from torch import Tensor

TABLE = GoldenTable(os.environ.get("LIPSYNC_LAYOUT_TABLE"))
Save = Callable[[dict[str, Tensor], Path], None]


def _bf16(prefix: str = "") -> Save:
    return lambda parameters, path: save_single(parameters, path, prefix=prefix)


def _gguf(kind: str) -> Save:
    return lambda parameters, path: save_gguf(parameters, path, kind)


def _fp8(**options: Any) -> Save:
    return lambda parameters, path: save_scaled_fp8(parameters, path, **options)


def _quanto(kind: EightBit) -> Save:
    def save(parameters: dict[str, Tensor], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(quantized_tensors({name: value.bfloat16() for name, value in parameters.items()}, kind)[0], path)

    return save


# Bound of the relative error of a whole forward, about twice the error of rounding to that many bits.
LAYOUTS: dict[str, tuple[Save, str, float]] = {
    "bf16": (_bf16(), "safetensors", 0.01),
    "bf16, ComfyUI's prefix": (_bf16("model.diffusion_model."), "safetensors", 0.01),
    "bf16, the shorter prefix": (_bf16("diffusion_model."), "safetensors", 0.01),
    "fp16": (lambda p, path: save_single(p, path, dtype=torch.float16), "safetensors", 0.002),
    "scaled fp8, one number": (_fp8(), "safetensors", 0.08),
    "scaled fp8, rows": (_fp8(scale="rows"), "safetensors", 0.08),
    "scaled fp8, weight_scale and comfy_quant": (_fp8(scale_name="weight_scale", described=True), "safetensors", 0.08),
    "scaled fp8, prefix": (_fp8(prefix="model.diffusion_model."), "safetensors", 0.08),
    "plain e4m3": (_fp8(scale="none"), "safetensors", 0.1),
    "plain e5m2": (_fp8(kind="e5m2", scale="none"), "safetensors", 0.2),
    "int8, rows": (lambda p, path: save_int8(p, path), "safetensors", 0.02),
    "int8, rows, as LightX2V writes it": (
        lambda p, path: save_int8(p, path, described=False, inside="blocks."),
        "safetensors",
        0.02,
    ),
    "int8, optimum-quanto without a map": (_quanto("int8"), "safetensors", 0.02),
    "fp8, optimum-quanto without a map": (_quanto("fp8"), "safetensors", 0.08),
    "int8, ConvRot": (lambda p, path: save_int8(p, path, group=256), "safetensors", 0.02),
    "int8, ConvRot in groups of 64": (lambda p, path: save_int8(p, path, group=64), "safetensors", 0.02),
    "GGUF F16": (_gguf("F16"), "gguf", 0.002),
    "GGUF BF16": (_gguf("BF16"), "gguf", 0.01),
    "GGUF Q8_0": (_gguf("Q8_0"), "gguf", 0.02),
    "GGUF Q6_K": (_gguf("Q6_K"), "gguf", 0.05),
    "GGUF Q5_K": (_gguf("Q5_K"), "gguf", 0.1),
    "GGUF Q4_K": (_gguf("Q4_K"), "gguf", 0.2),
    "GGUF Q4_0": (_gguf("Q4_0"), "gguf", 0.25),
}

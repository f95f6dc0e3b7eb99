"""Measures the loading of one model file at full size, and the switching of LoRA files, with random numbers.

    python -m lipsync_server.bench.infinitetalk.model_files FOLDER LAYOUT [--switches 10] [--keep]

LAYOUT is fp8 (ComfyUI's scaled fp8), Q4_K, Q8_0 or another block format of GGUF. The file of 9 to 19 GB is first
written into FOLDER and removed at the end. So the page cache contains the file if the machine has enough memory. Each
figure is one JSON line. Host memory is the process's own memory (RssAnon), without pages of the mapped file. A LoRA of
rank 64 for every linear layer of the blocks is switched on and off. After each switch a checksum of all weights is
compared with the checksum after the first switch to the same state. Knows layouts and files. Does not render.
"""

import argparse
import json
import math
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lipsync_server.bench import memory
from lipsync_server.engines.infinitetalk.loading.switch_lora import switch_loras
from lipsync_server.engines.infinitetalk.loading.transformer_files import is_adapter, load_transformer, official_shapes
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.models.tensor_files.headers import GGUF_BLOCKS, SHAPE_KEY
from lipsync_server.models.tensor_files.writer import write_tensors
from lipsync_server.quantization import Quantization

RANK = 64
_LARGEST_FP8 = 448.0
# Bytes at the start of a block that hold float16 scales, in the formats that begin with them.
_SCALE_BYTES = {"Q4_K": 4, "Q5_K": 4, "Q8_0": 2, "Q4_0": 2}
_SMALL_SCALE = np.float16(0.0005)
_GB = 1e9


@dataclass
class HostPeak:
    """The largest memory of this process (RssAnon) since `reset`, watched by a thread."""

    bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "HostPeak":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()

    def reset(self) -> int:
        """Start a new measurement at the current memory, which is returned in bytes."""
        self.bytes = _held_bytes()
        return self.bytes

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, _held_bytes())


def write_fp8(path: Path, config: TransformerConfig, device: torch.device) -> None:
    """Write the whole transformer in ComfyUI's scaled fp8: linear layers with one scale each, the rest in float16."""
    shapes = official_shapes(config)
    layout: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        kind = torch.float8_e4m3fn if _is_linear(name, shape) else torch.float16
        layout[name] = torch.empty(shape, dtype=kind, device="meta")
        if _is_linear(name, shape):
            layout[f"{name.removesuffix('.weight')}.scale_weight"] = torch.empty((1,), device="meta")

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, shape in shapes.items():
            spread = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
            value = torch.randn(shape, device=device, dtype=torch.bfloat16) * spread
            if not _is_linear(name, shape):
                yield name, value.half()
                continue
            scale = value.abs().max().float() / _LARGEST_FP8
            yield name, (value.float() / scale).to(torch.float8_e4m3fn)
            yield f"{name.removesuffix('.weight')}.scale_weight", scale.reshape(1)

    write_tensors(path, layout, tensors())


def write_gguf(path: Path, config: TransformerConfig, kind: str) -> None:
    """Write the whole transformer as GGUF.

    Random bytes are valid blocks except for their scales, which are set to a small number. Every tensor repeats one
    buffer of blocks. kind: the block format of matrices, such as Q4_K.
    """
    number, (_, per_block, block_bytes) = next((n, entry) for n, entry in GGUF_BLOCKS.items() if entry[0] == kind)
    values = [_text("general.architecture") + struct.pack("<I", 8) + _text("wan")]
    listed: list[bytes] = []
    parts: list[tuple[bool, int]] = []
    begin = 0
    for name, shape in official_shapes(config).items():
        packed = _is_linear(name, shape) and shape[1] % per_block == 0
        n_bytes = math.prod(shape) // per_block * block_bytes if packed else math.prod(shape) * 4
        if len(shape) > 4:
            sizes = struct.pack(f"<{len(shape)}i", *shape)
            values.append(_text(SHAPE_KEY + name) + struct.pack("<IIQ", 9, 5, len(shape)) + sizes)
        stored = shape if len(shape) <= 4 else (shape[0], math.prod(shape[1:]))
        turned = struct.pack(f"<I{len(stored)}Q", len(stored), *reversed(stored))
        listed.append(_text(name) + turned + struct.pack("<IQ", number if packed else 0, begin))
        parts.append((packed, n_bytes))
        begin += -(-n_bytes // 32) * 32
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(listed), len(values)) + b"".join(values) + b"".join(listed)
    random = np.random.default_rng(0)
    n_blocks = max(n_bytes for packed, n_bytes in parts if packed) // block_bytes
    blocks = random.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)
    scale_bytes = _SCALE_BYTES[kind]
    blocks[:, :scale_bytes] = np.full(scale_bytes // 2, _SMALL_SCALE).view(np.uint8)
    floats = (random.standard_normal(1_000_000) * 0.05).astype("<f4")
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for packed, n_bytes in parts:
            file.write(blocks.reshape(-1)[:n_bytes].data if packed else np.resize(floats, n_bytes // 4).data)
            file.write(bytes(-n_bytes % 32))


def write_lora(path: Path, config: TransformerConfig, device: torch.device) -> None:
    """Write a LoRA of rank 64 for every linear layer of Wan's blocks. Step-distilled LoRAs have the same layers."""
    tensors: dict[str, Tensor] = {}
    for name, shape in official_shapes(config).items():
        if name.startswith("blocks.") and _is_linear(name, shape) and not is_adapter(name):
            layer = f"diffusion_model.{name.removesuffix('.weight')}"
            down, up = torch.randn(RANK, shape[1], device=device), torch.randn(shape[0], RANK, device=device)
            tensors[f"{layer}.lora_A.weight"] = (down * 0.01).bfloat16().cpu()
            tensors[f"{layer}.lora_B.weight"] = (up * 0.01).bfloat16().cpu()
    save_file(tensors, path)


def measure(
    folder: Path, layout: str, n_switches: int, *, config: TransformerConfig, device: torch.device
) -> Iterator[dict[str, object]]:
    """Write the files of `layout`, then yield the figures of loading and of each switch. The files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"whole-{layout}.gguf" if layout in _SCALE_BYTES else "whole_fp8_scaled.safetensors")
    if layout in _SCALE_BYTES:
        write_gguf(path, config, layout)
    else:
        write_fp8(path, config, device)
    quant: Quantization = "int8" if layout in _SCALE_BYTES else "fp8"
    lora = folder / "lora.safetensors"
    if n_switches:
        write_lora(lora, config, device)
    memory.free(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with HostPeak() as host:
        before = host.reset()
        memory.reset_peak(device)
        begin = time.perf_counter()
        model = load_transformer(path, None, config=config, device=device, dtype=dtype, quant=quant)
        yield {
            "layout": layout, "file_gb": round(path.stat().st_size / _GB, 2), "held_as": quant,
            "load_s": _seconds(begin, device), "host_peak_gb": round((host.bytes - before) / _GB, 2),
            "gpu_peak_gib": memory.peak_gib(device),
        }  # fmt: skip
        sums = {"base": _checksum(model)} if n_switches else {}
        for turn in range(n_switches):
            to = "LoRA" if turn % 2 == 0 else "base"
            held, used = host.reset(), memory.allocated_bytes(device)
            memory.reset_peak(device)
            begin = time.perf_counter()
            switch_loras(
                model, path, None, config=config, loras=[(lora, 1.0)] if to == "LoRA" else [], device=device,
                dtype=dtype,
            )  # fmt: skip
            seconds, peak = _seconds(begin, device), memory.peak_gib(device)
            found = _checksum(model)
            yield {
                "layout": layout, "switch": turn + 1, "to": to, "s": seconds,
                "host_peak_gb": round((host.bytes - held) / _GB, 2),
                "gpu_extra_gib": None if peak is None else round(peak - used / memory.GIB, 2),
                "same_bytes": sums.setdefault(to, found) == found,
            }  # fmt: skip


def main() -> None:
    """Measure the layout on the command line, and print a JSON line for each figure."""
    parser = argparse.ArgumentParser(description="Load a random model file of full size and switch LoRA files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("layout", choices=["fp8", *_SCALE_BYTES])
    parser.add_argument("--switches", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the files that were written")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        for line in measure(given.folder, given.layout, given.switches, config=TransformerConfig(), device=device):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    finally:
        if not given.keep:
            for path in (*given.folder.glob("whole*"), *given.folder.glob("lora.safetensors")):
                path.unlink()


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the matrix of a linear layer."""
    return len(shape) == 2 and name.endswith(".weight")


def _text(value: str) -> bytes:
    """GGUF's form of a string: its length in 8 bytes, then its characters."""
    return struct.pack("<Q", len(value)) + value.encode()


def _held_bytes() -> int:
    """Memory of this process without mapped files, in bytes; 0 if the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def _seconds(begin: float, device: torch.device) -> float:
    """Seconds since `begin` on `time.perf_counter`, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return round(time.perf_counter() - begin, 1)


def _checksum(model: InfiniteTalkTransformer) -> int:
    """A number that changes with any byte of any weight."""
    total = 0
    for parameter in model.parameters():
        values = parameter.detach().reshape(-1).view(torch.uint8)
        total = (total * 31 + int((values.to(torch.int32) * 131 % 251).sum(dtype=torch.int64))) % (1 << 61)
    return total


if __name__ == "__main__":
    main()

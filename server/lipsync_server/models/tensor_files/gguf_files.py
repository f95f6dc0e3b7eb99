"""GGUF files: the tensors of llama.cpp's format, read from the header and unpacked one at a time.

GGUF stores the rows of a weight in blocks of 32 or 256 numbers that share a scale, with 4 to 8 bits a number.
headers.py reads the offsets of the blocks, and the package `gguf` unpacks them. This module runs it on several threads
and restores the shape of ComfyUI's five-dimensional tensors. Knows no model.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.extras import extra_is_missing, missing_packages
from lipsync_server.models.tensor_files.entries import Entry
from lipsync_server.models.tensor_files.gguf_unpack import UNPACKERS
from lipsync_server.models.tensor_files.headers import GGUF_BLOCKS, read_gguf

_KINDS = {name: (number, n, n_bytes) for number, (name, n, n_bytes) in GGUF_BLOCKS.items()}
READABLE = tuple(_KINDS)
"""Block formats that are unpacked."""
# Numbers unpacked at once: about 100 MB of intermediate arrays in each thread.
_N_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class GgufFile:
    """An open file: its entries in storage order, and its tensors, each unpacked at its access."""

    path: Path
    entries: list[Entry]
    _by_key: dict[str, Entry]
    _bytes: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path) -> "GgufFile":
        """Read the header. Raises WeightsError for a file that is missing, damaged or ends before its last tensor."""
        if missing_packages(("gguf",)):
            raise WeightsError(f"{path}: {extra_is_missing('A GGUF file', ['gguf'], 'models')}")
        entries, _ = read_gguf(path)
        return cls(path, entries, {entry.key: entry for entry in entries}, np.memmap(path, np.uint8, "r"))

    def tensor(self, key: str, device: torch.device | str = "cpu") -> Tensor:
        """The tensor `key` as float32, or as float16 or bfloat16 where the file holds these; blocks are unpacked on
        `device`."""
        return self.rows(key, slice(None), device).reshape(self._by_key[key].shape)

    def rows(self, key: str, wanted: "slice | list[int]", device: torch.device | str = "cpu") -> Tensor:
        """Some rows of the tensor `key`, (n, row length), unpacked on `device`; its first dimensions are one here."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        entry = self._by_key[key]
        if entry.dtype not in _KINDS:
            raise WeightsError(f"{self.path}: {key} is stored as {entry.dtype}, which is not read here.")
        number, per_block, block_bytes = _KINDS[entry.dtype]
        packed = self._bytes[entry.begin : entry.begin + entry.n_bytes]
        length = entry.shape[-1] if entry.shape else 1
        if length % per_block:
            # A tensor of five dimensions was flattened to two before it was packed.
            length = int(np.prod(entry.shape[1:]))
        packed = packed.reshape(-1, length // per_block * block_bytes)[wanted]
        if per_block == 1:
            kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[entry.dtype]
            return torch.from_numpy(packed.copy()).view(kind)
        step = max(1, _N_AT_ONCE // length)
        if unpacker := UNPACKERS.get(entry.dtype):
            values = torch.empty((len(packed), length), device=device)
            for begin in range(0, len(packed), step):
                blocks = torch.from_numpy(packed[begin : begin + step].reshape(-1, block_bytes).copy()).to(device)
                values[begin : begin + step] = unpacker(blocks).view(-1, length)
            return values
        out = np.empty((len(packed), length), np.float32)

        def unpack(begin: int) -> None:
            out[begin : begin + step] = dequantize(packed[begin : begin + step], GGMLQuantizationType(number))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(unpack, range(0, len(packed), step)))
        return torch.from_numpy(out)

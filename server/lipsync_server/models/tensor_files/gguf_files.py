"""GGUF files: the tensors of llama.cpp's format, read from the header and unpacked one at a time.

GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) stores the rows of a weight in blocks of 32 or 256
numbers that share a scale, with 4 to 8 bits a number. The package `gguf` reads the header and unpacks the blocks; this
module names what is wrong with a file, unpacks on several threads and gives ComfyUI's five-dimensional tensors their
shape back. Knows no model.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.extras import extra_is_missing, missing_packages
from lipsync_server.models.tensor_files.entries import Entry

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

READABLE = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q5_1", "Q4_K", "Q4_0", "Q4_1", "Q3_K", "Q2_K")
"""Block formats that are unpacked."""
_MAGIC = b"GGUF"
# ComfyUI's converter notes the shape of a tensor that GGUF's four dimensions cannot hold under this key.
_SHAPE_KEY = "comfy.gguf.orig_shape."
# Numbers unpacked at once: about 100 MB of intermediate arrays in each thread.
_N_AT_ONCE = 4_000_000


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return path.suffix == ".gguf"


@dataclass(frozen=True)
class GgufFile:
    """An open file: its entries in storage order, and its tensors, unpacked when asked for."""

    path: Path
    entries: list[Entry]
    _tensors: "dict[str, ReaderTensor]"

    @classmethod
    def open(cls, path: Path) -> "GgufFile":
        """Read the header. Raises WeightsError for a file that is missing, damaged or ends before its last tensor."""
        if missing_packages(("gguf",)):
            raise WeightsError(f"{path}: {extra_is_missing('A GGUF file', ['gguf'], 'models')}")
        try:
            reader = _read(path)
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing; download the weights first.") from None
        except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise WeightsError(
                f"{path} is no complete GGUF file ({str(error) or 'it ends in its header'}). Download it again."
            ) from error
        entries = []
        for tensor in reader.tensors:
            kind, begin, n_bytes = tensor.tensor_type.name, int(tensor.data_offset), int(tensor.n_bytes)
            entries.append(Entry(path, tensor.name, kind, _shape(reader, tensor), begin, n_bytes))
        entries.sort(key=lambda entry: entry.begin)
        return cls(path, entries, {tensor.name: tensor for tensor in reader.tensors})

    def tensor(self, key: str) -> Tensor:
        """The tensor `key` as float32, or as float16 or bfloat16 where the file holds these."""
        entry = next(entry for entry in self.entries if entry.key == key)
        return self.rows(key, slice(None)).reshape(entry.shape)

    def rows(self, key: str, wanted: "slice | list[int]") -> Tensor:
        """Some rows of the tensor `key`, (n, row length), unpacked; its first dimensions are one here."""
        from gguf.quants import dequantize

        stored = self._tensors[key]
        packed = np.asarray(stored.data)
        packed = packed.reshape(-1, packed.shape[-1])[wanted]
        kind = stored.tensor_type
        if kind.name not in READABLE:
            raise WeightsError(f"{self.path}: {key} is stored as {kind.name}, which is not read here.")
        if kind.name in ("F32", "F16"):
            return torch.from_numpy(packed.copy())
        if kind.name == "BF16":
            return torch.from_numpy(packed.copy()).view(torch.bfloat16)
        length = int(stored.shape[0])
        out = torch.empty(len(packed), length)
        step = max(1, _N_AT_ONCE // length)

        def unpack(begin: int) -> None:
            part = dequantize(packed[begin : begin + step], kind)
            out[begin : begin + step] = torch.from_numpy(part)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(unpack, range(0, len(packed), step)))
        return out


def _read(path: Path) -> "GGUFReader":
    """The package's reader. It raises WeightsError with the tensor's name where the file ends too early."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, ReaderField

    class Reader(GGUFReader):
        def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
            for field in fields:
                _, name, _, sizes, kind, offset = field.parts
                per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind[0])]
                end = start_offs + int(offset[0]) + math.prod(sizes.tolist()) // per_block * block_bytes
                if end > len(self.data):
                    raise WeightsError(
                        f"{path} is truncated: {bytes(name).decode(errors='replace')} should end at byte {end:,} but "
                        f"the file has {len(self.data):,}. Download it again."
                    )
            super()._build_tensors(start_offs, fields)

    return Reader(path)


def _shape(reader: "GGUFReader", tensor: "ReaderTensor") -> tuple[int, ...]:
    """The tensor's shape in torch's order."""
    field = reader.get_field(_SHAPE_KEY + tensor.name)
    if field is not None:
        return tuple(int(field.parts[index][0]) for index in field.data)
    return tuple(int(size) for size in reversed(tensor.shape.tolist()))

"""The headers of model files: names, types, shapes and offsets of the tensors, read without torch and without the data.

A .safetensors file begins with the length of a JSON header. A GGUF file
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) begins with keys and values and then lists its tensors. The
header alone shows in milliseconds whether a download is wrong or truncated. Knows both formats. Knows no model.
"""

import json
import math
import mmap
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.entries import Entry

GGUF_BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 30: ("BF16", 1, 2),
}  # fmt: skip
"""GGUF's number of a block format -> its name, numbers in a block, bytes of a block."""
# ComfyUI's converter stores a shape of more than four dimensions, which GGUF does not have, under this key.
SHAPE_KEY = "comfy.gguf.orig_shape."
_MAGIC = b"GGUF"
_MAX_HEADER_BYTES = 100_000_000
_PREFIX = re.compile(r"^(?:model\.diffusion_model\.|diffusion_model\.|_orig_mod\.|transformer\.(?!block))+")
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Longer arrays belong to a tokenizer. They are returned only on request.
_SHORT = 64

Value = str | int | float | bool | list[str] | list[int] | list[float]


def plain_name(key: str) -> str:
    """The key without the prefixes that other programs put before a model's own names, and one name for a scale.

    optimum-quanto calls an 8-bit weight NAME.weight._data, and its scale NAME.weight._scale.
    """
    name = _PREFIX.sub("", key).removesuffix("._data")
    return f"{name.removesuffix('.weight._scale')}.weight_scale" if name.endswith(".weight._scale") else name


def is_gguf(path: Path) -> bool:
    """Whether the file begins with GGUF's magic number."""
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return path.suffix == ".gguf"


def read_header(path: Path) -> list[Entry]:
    """The tensors of a safetensors file in storage order.

    Raises WeightsError when the file is missing, is no safetensors file or ends before its last tensor (naming it).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_MAX_HEADER_BYTES, max(size - 8, 0)):
                raise WeightsError(f"{path} is not a complete safetensors file; download it again.")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; download the weights first.") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file ({error}); download it again.") from error
    entries = []
    try:
        for key, info in header.items():
            if key != "__metadata__":
                begin, end = info["data_offsets"]
                entries.append(Entry(path, key, info["dtype"], tuple(info["shape"]), begin, end - begin))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} has a header that describes no tensors ({error}); download it again.") from error
    for entry in entries:
        end = 8 + length + entry.begin + entry.n_bytes
        if end > size:
            raise WeightsError(
                f"{path} is truncated: {entry.key} should end at byte {end:,} but the file has {size:,}. "
                "Download it again."
            )
    return sorted(entries, key=lambda entry: entry.begin)


def read_gguf(path: Path, wanted: Callable[[str], bool] = lambda key: False) -> tuple[list[Entry], dict[str, Value]]:
    """The tensors of a GGUF file in storage order, each with its place in the file, and the file's short values.

    wanted: whether a long array of this key is returned too. Raises WeightsError for a file that is missing, damaged or
    ends before its last tensor.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _GgufHeader(path, data, wanted).read()
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; download the weights first.") from None
    except (OSError, ValueError, IndexError, KeyError, struct.error, OverflowError) as error:
        raise WeightsError(f"{path} is no complete GGUF file ({error}). Download it again.") from error


def read_entries(path: Path) -> list[Entry]:
    """The tensors of a safetensors or a GGUF file in storage order; errors as read_header's."""
    return read_gguf(path)[0] if is_gguf(path) else read_header(path)


def known_entries(path: Path) -> tuple[Entry, ...]:
    """As read_entries, cached for as long as the file's size and time stamp do not change."""
    found = path.stat()
    return _remembered(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=512)
def _remembered(path: Path, size: int, mtime_ns: int) -> tuple[Entry, ...]:
    return tuple(read_entries(path))


class _GgufHeader:
    """One pass over a GGUF file's header."""

    def __init__(self, path: Path, data: mmap.mmap, wanted: Callable[[str], bool]) -> None:
        self._path, self._data, self._wanted, self._at = path, data, wanted, 4

    def read(self) -> tuple[list[Entry], dict[str, Value]]:
        """The tensors in storage order, and the values. Raises ValueError with the fault of a damaged header."""
        if self._data[:4] != _MAGIC:
            raise ValueError("it does not begin as one")
        version, n_tensors, n_values = self._take("I"), self._take("Q"), self._take("Q")
        if version not in (2, 3):
            raise ValueError(f"it has version {version}, and 2 and 3 are read here")
        values: dict[str, Value] = {}
        for _ in range(int(n_values)):
            key = self._string()
            value = self._value(int(self._take("I")), kept=self._wanted(key))
            if value is not None:
                values[key] = value
        listed = [(self._string(), self._sizes(), int(self._take("I")), int(self._take("Q"))) for _ in range(n_tensors)]
        alignment = values.get("general.alignment", 32)
        step = alignment if isinstance(alignment, int) and alignment > 0 else 32
        start = -(-self._at // step) * step
        entries = [self._entry(*one, start, values) for one in listed]
        return sorted(entries, key=lambda entry: entry.begin), values

    def _entry(
        self, name: str, sizes: tuple[int, ...], kind: int, offset: int, start: int, values: dict[str, Value]
    ) -> Entry:
        """The tensor of one list entry. kind: GGUF's number of its block format. start: where the data begins."""
        type_name, per_block, block_bytes = GGUF_BLOCKS.get(kind, (f"GGUF type {kind}", 1, 0))
        n_bytes = math.prod(sizes) // per_block * block_bytes
        end = start + offset + n_bytes
        if end > len(self._data):
            raise WeightsError(
                f"{self._path} is truncated: {name} should end at byte {end:,} but the file has {len(self._data):,}. "
                "Download it again."
            )
        noted = values.get(SHAPE_KEY + name)
        shape = tuple(int(n) for n in noted) if isinstance(noted, list) else tuple(reversed(sizes))
        return Entry(self._path, name, type_name, shape, start + offset, n_bytes)

    def _take(self, form: str) -> int:
        """The integer at the cursor, in struct's format `form`; moves the cursor behind it."""
        (value,) = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return int(value)

    def _string(self) -> str:
        length = self._take("Q")
        if self._at + length > len(self._data):
            raise ValueError("it ends in its header")
        self._at += length
        return self._data[self._at - length : self._at].decode(errors="replace")

    def _sizes(self) -> tuple[int, ...]:
        n_dimensions = self._take("I")
        if n_dimensions > 8:
            raise ValueError("a tensor has more than eight dimensions")
        return tuple(self._take("Q") for _ in range(n_dimensions))

    def _value(self, kind: int, *, kept: bool) -> Value | None:
        """The value at the cursor; None for a long array that is not wanted."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            (value,) = struct.unpack_from(f"<{_SCALARS[kind]}", self._data, self._at)
            self._at += struct.calcsize(f"<{_SCALARS[kind]}")
            found: Value = value
            return found
        of, count = self._take("I"), self._take("Q")
        keep = kept or count <= _SHORT
        if of == _STRING:
            strings = [self._string() for _ in range(count)]
            return strings if keep else None
        dtype = np.dtype(f"<{_SCALARS[of].replace('Q', 'u8').replace('q', 'i8')}")
        if self._at + count * dtype.itemsize > len(self._data):
            raise ValueError("it ends in its header")
        numbers: list[int] = np.frombuffer(self._data, dtype, count, self._at).tolist() if keep else []
        self._at += count * dtype.itemsize
        return numbers if keep else None

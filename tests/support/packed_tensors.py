"""Files of tensors, packed small enough to commit, and unpacked to the last bit.

Most tensors of the golden data are random numbers, which no compression makes small. Many of them come from a recipe
(weight_recipes.py): such a tensor is packed as the recipe and the difference from it, which is nearly always 0. Every
other tensor is packed as it is. The bytes are sorted by their place in a number (all sign and exponent bytes together),
because those bytes repeat and the rest do not; then they are compressed (xz).

A packed file holds the SHA-256 of its tensors, so that a wrong prediction is an error and never a slightly different
test.
"""

import hashlib
import json
import lzma
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from weight_recipes import TorchNormals, named

# Random bytes have no context: without one, the model of xz is smaller and better.
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]
_SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_HEADER_BYTES = 4
Bits = NDArray[Any]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recipe:
    """The source of the tensors of a file.

    seed, drawn: (name, scale, shift) of the tensors that are scale * torch.randn(shape) + shift, in the order in which
    they were drawn after that seed. salt, prefixes: the tensors whose name here starts with a prefix of the dictionary
    are `named` by the salt and the prefix that stands for it.
    """

    seed: int = 0
    drawn: list[tuple[str, float, float]] = field(default_factory=list)
    salt: str = ""
    prefixes: dict[str, str] = field(default_factory=dict)

    def predictions(self, shapes: Shapes) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The names that the recipe knows, with their values."""
        normals = TorchNormals(self.seed)
        for name, scale, shift in self.drawn:
            yield name, normals.draw(math.prod(shapes[name])) * np.float32(scale) + np.float32(shift)
        for here, there in self.prefixes.items():
            for name, shape in shapes.items():
                if name.startswith(here) and math.prod(shape) > 1:
                    yield name, named(there + name.removeprefix(here), shape, self.salt).reshape(-1)


def pack(source: Path, target: Path, recipe: Recipe) -> None:
    """Pack the safetensors file `source`."""
    with safe_open(source, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
    rows = [(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()]
    predicted = dict(recipe.predictions({name: shape for name, _, shape in rows}))
    bits = {name: _bits(tensor) for name, tensor in tensors.items()}
    for name, values in predicted.items():
        bits[name] = _fold(bits[name] - _rounded(values, tensors[name].dtype))
    header = {"tensors": rows, "metadata": metadata, "recipe": asdict(recipe), "sha256": _digest(tensors)}
    text = json.dumps(header).encode()
    body = b"".join(_bytes(bits[name])[:, place].tobytes() for name, place in _order(rows, predicted))
    data = len(text).to_bytes(_HEADER_BYTES, "little") + text + body
    target.write_bytes(lzma.compress(data, lzma.FORMAT_XZ, filters=_XZ))


def unpack(source: Path, target: Path) -> None:
    """Write the safetensors file that `source` was packed from; raises ValueError if a single bit differs."""
    data = lzma.decompress(source.read_bytes())
    at = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "little")
    header = json.loads(data[_HEADER_BYTES:at])
    rows = [(name, dtype, tuple(shape)) for name, dtype, shape in header["tensors"]]
    dtypes: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype, _ in rows}
    shapes = {name: shape for name, _, shape in rows}
    predicted = dict(Recipe(**header["recipe"]).predictions(shapes))
    bits = {name: np.empty(math.prod(shape), _SIGNED[dtypes[name].itemsize]) for name, shape in shapes.items()}
    for name, place in _order(rows, predicted):
        plane = _bytes(bits[name])[:, place]
        plane[:] = np.frombuffer(data, np.uint8, len(plane), at)
        at += len(plane)
    for name, values in predicted.items():
        bits[name] = _unfold(bits[name]) + _rounded(values, dtypes[name])
    tensors = {name: torch.from_numpy(b).view(dtypes[name]).reshape(shapes[name]) for name, b in bits.items()}
    if _digest(tensors) != header["sha256"]:
        raise ValueError(f"{source} does not unpack to the tensors that were packed")
    save_file(tensors, target, header["metadata"])


def _order(rows: list[tuple[str, str, tuple[int, ...]]], predicted: dict[str, Any]) -> list[tuple[str, int]]:
    """(tensor, place of the byte in a number) in the order in which the bytes are packed."""
    keys = [
        (name in predicted, dtype, place, number, name)
        for number, (name, dtype, _) in enumerate(rows)
        for place in range(getattr(torch, dtype).itemsize)
    ]
    return [(name, place) for _, _, place, _, name in sorted(keys)]


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the names and bytes of tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + _bits(tensors[name]).tobytes())
    return total.hexdigest()


def _bytes(bits: Bits) -> NDArray[np.uint8]:
    """(n,) integers -> (n, bytes of one), the same memory."""
    return bits.view(np.uint8).reshape(len(bits), bits.itemsize)


def _bits(tensor: Tensor) -> Bits:
    """The numbers of a tensor as integers of the same size."""
    raw: Bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.view(_SIGNED[tensor.element_size()])


def _rounded(values: NDArray[np.float32], dtype: torch.dtype) -> Bits:
    """float32 values as the bits of `dtype`."""
    return _bits(torch.from_numpy(values).to(dtype))


def _fold(difference: Bits) -> Bits:
    """0, -1, 1, -2, ... -> 0, 1, 2, 3, ...: a small difference of either sign has zeros in its upper bytes."""
    folded: Bits = (difference << 1) ^ (difference >> (difference.itemsize * 8 - 1))
    return folded


def _unfold(folded: Bits) -> Bits:
    unsigned = folded.view(f"u{folded.itemsize}")
    back: Bits = ((unsigned >> 1) ^ (0 - (unsigned & 1))).view(folded.dtype)
    return back

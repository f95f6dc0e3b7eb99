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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from sampled import blank, sampled
from torch import Tensor
from weight_recipes import TorchNormals, named

# Random bytes have no context: without one, the model of xz is smaller and better.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]
_SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_HEADER_BYTES = 4
Bits = NDArray[Any]
Shapes = dict[str, tuple[int, ...]]
Stored = Callable[[str], Tensor]


@dataclass(frozen=True)
class Recipe:
    """The source of the tensors of a file.

    seed, drawn: (name, scale, shift) of the tensors that are scale * torch.randn(shape) + shift, in the order in which
    they were drawn after that seed. alone: by name, (seed, scale, shift) of the tensors that were drawn so after a seed
    of their own. rounded: the type to which all these numbers were rounded before the file's type, as float32 files of
    bfloat16 weights are. divided: of quantised weights, the name of the tensor (rows, 1) by which their rows were
    divided. salt, prefixes: the tensors whose name here starts with a prefix of the dictionary are `named` by the salt
    and the prefix that stands for it. sampled: by name, n of the tensors of which every n-th value is packed
    (sampled.py). gains: by name, a factor on the values of a `named` tensor.
    """

    seed: int = 0
    drawn: list[tuple[str, float, float]] = field(default_factory=list)
    alone: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    rounded: str | None = None
    divided: dict[str, str] = field(default_factory=dict)
    salt: str = ""
    prefixes: dict[str, str] = field(default_factory=dict)
    sampled: dict[str, int] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)

    def names(self, shapes: Shapes) -> set[str]:
        """The tensors that the recipe knows."""
        under = {
            name for name, shape in shapes.items() if name.startswith(tuple(self.prefixes)) and math.prod(shape) > 1
        }
        return {name for name, _, _ in self.drawn} | set(self.alone) | under

    def predictions(self, shapes: Shapes, stored: Stored) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The names that the recipe knows, with their values. stored: the tensors of names that it does not know."""
        normals = TorchNormals(self.seed)
        for name, scale, shift in self.drawn:
            yield name, self._round(normals.draw(math.prod(shapes[name])) * np.float32(scale) + np.float32(shift))
        for name, (seed, scale, shift) in self.alone.items():
            numbers = TorchNormals(seed).draw(math.prod(shapes[name]))
            values = self._round(numbers * np.float32(scale) + np.float32(shift))
            if name in self.divided:
                rows = stored(self.divided[name]).float().reshape(-1, 1).numpy()
                values = (values.reshape(len(rows), -1) / rows).reshape(-1)
            yield name, values
        for here, there in self.prefixes.items():
            for name, shape in shapes.items():
                if name.startswith(here) and math.prod(shape) > 1:
                    values = named(there + name.removeprefix(here), shape, self.salt).reshape(-1)
                    yield name, values * np.float32(self.gains.get(name, 1))

    def _round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.rounded is None:
            return values
        dtype: torch.dtype = getattr(torch, self.rounded)
        return torch.from_numpy(values).to(dtype).float().numpy()


def pack(source: Path, target: Path, recipe: Recipe) -> None:
    """Pack the safetensors file `source`."""
    with safe_open(source, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
    tensors |= {name: sampled(tensors[name], every) for name, every in recipe.sampled.items()}
    rows = [(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()]
    predicted = dict(recipe.predictions({name: shape for name, _, shape in rows}, tensors.__getitem__))
    bits = {name: _bits(tensor)[:: recipe.sampled.get(name, 1)].copy() for name, tensor in tensors.items()}
    for name, values in predicted.items():
        bits[name] = _fold(bits[name] - _rounded(values, tensors[name].dtype))
    header = {"tensors": rows, "metadata": metadata, "recipe": asdict(recipe), "sha256": _digest(tensors)}
    text = json.dumps(header).encode()
    body = b"".join(_bytes(bits[name])[:, place].tobytes() for name, place in _order(rows, set(predicted)))
    data = len(text).to_bytes(_HEADER_BYTES, "little") + text + body
    target.write_bytes(lzma.compress(data, lzma.FORMAT_XZ, filters=XZ))


def unpack(source: Path, target: Path) -> None:
    """Write the safetensors file that `source` was packed from; raises ValueError if a single bit differs."""
    header, data, at = _read(source)
    rows = [(name, dtype, tuple(shape)) for name, dtype, shape in header["tensors"]]
    dtypes: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype, _ in rows}
    shapes = {name: shape for name, _, shape in rows}
    recipe = Recipe(**header["recipe"])
    bits = {
        name: np.empty(-(-math.prod(shape) // recipe.sampled.get(name, 1)), _SIGNED[dtypes[name].itemsize])
        for name, shape in shapes.items()
    }
    for name, place in _order(rows, recipe.names(shapes)):
        plane = _bytes(bits[name])[:, place]
        plane[:] = np.frombuffer(data, np.uint8, len(plane), at)
        at += len(plane)

    def tensor(name: str) -> Tensor:
        values = torch.from_numpy(bits[name]).view(dtypes[name])
        if name in recipe.sampled:
            whole = blank((math.prod(shapes[name]),), dtypes[name])
            whole[:: recipe.sampled[name]] = values
            values = whole
        return values.reshape(shapes[name])

    for name, values in recipe.predictions(shapes, tensor):
        bits[name] = _unfold(bits[name]) + _rounded(values, dtypes[name])
    tensors = {name: tensor(name) for name in shapes}
    if _digest(tensors) != header["sha256"]:
        raise ValueError(f"{source} does not unpack to the tensors that were packed")
    save_file(tensors, target, header["metadata"])


def recipe_of(source: Path) -> Recipe:
    """The recipe in a packed file."""
    return Recipe(**_read(source)[0]["recipe"])


def _read(source: Path) -> tuple[dict[str, Any], bytes, int]:
    """The header of a packed file, all bytes, and the place in them where the tensors begin."""
    data = lzma.decompress(source.read_bytes())
    at = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "little")
    return json.loads(data[_HEADER_BYTES:at]), data, at


def _order(rows: list[tuple[str, str, tuple[int, ...]]], predicted: set[str]) -> list[tuple[str, int]]:
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

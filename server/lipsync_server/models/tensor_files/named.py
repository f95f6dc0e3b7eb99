"""The tensors of a file in any layout, under the published file's names, each read at its access.

ComfyUI, diffusers and llama.cpp give the same weights different names. The module of a model maps their names to the
published ones. This module reads 16-bit, scaled 8-bit and GGUF tensors one at a time, so that an encoder of 11 GB needs
only a few hundred megabytes of memory. Knows no model.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.tensor_files.gguf_files import GgufFile
from lipsync_server.models.tensor_files.headers import is_gguf
from lipsync_server.models.tensor_files.layouts import Stored, read_layout
from lipsync_server.models.tensor_files.safetensors_files import OpenFile, open_safetensors

Rename = Callable[[str], str | None]
"""Name in a file -> the published name; an unknown name does not change; None for a tensor that is not needed."""


def as_published(name: str) -> str | None:
    """The Rename for a file that already has the published names."""
    return name


class NamedTensors(Mapping[str, Tensor]):
    """A safetensors or GGUF file as plain weights: 8-bit weights become float32, others keep the file's type.

    stored: the same names with tensors of the right shape on the meta device, so that a check reads no data.
    """

    def __init__(self, path: Path, rename: Rename = as_published) -> None:
        """Read the header.

        Raises WeightsError with file and tensor for a damaged file or an unknown form of storage.
        """
        layout = read_layout([path], is_unused=lambda name: rename(name) is None)
        self._stored: dict[str, Stored] = {}
        for name, stored in layout.items():
            published = rename(name)
            if published is None:
                continue
            if published in self._stored:
                other = self._stored[published].entry.key
                raise WeightsError(
                    f"{path}: {stored.entry.key} and {other} are the same tensor; only one may be there."
                )
            self._stored[published] = stored
        self.stored: dict[str, Tensor] = {
            name: torch.empty(stored.entry.shape, device="meta") for name, stored in self._stored.items()
        }
        self._file = _open(path)

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].plain(self._file)

    def on(self, name: str, device: torch.device) -> Tensor:
        """The same tensor as `[name]`, on `device`. It is unpacked there."""
        return self._stored[name].plain(self._file, device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def rows(self, name: str, indices: Tensor) -> Tensor:
        """Some rows of a matrix, (*indices.shape, row length), without unpacking the others. indices: whole numbers."""
        stored = self._stored[name]
        flat = indices.reshape(-1)
        if isinstance(self._file, GgufFile):
            found = self._file.rows(stored.entry.key, flat.tolist())
        else:
            found = stored.rows(self._file, flat)
        return found.view(*indices.shape, found.shape[-1])


def open_tensors(path: Path, rename: Rename = as_published, *, pull: str = "") -> Mapping[str, Tensor]:
    """The tensors of a .safetensors, .gguf or pickled file by published names. Raises WeightsError as read_tensors."""
    if path.is_file() and (path.suffix == ".safetensors" or is_gguf(path)):
        return NamedTensors(path, rename)
    renamed = ((rename(name), tensor) for name, tensor in into_modules.read_tensors(path, pull=pull).items())
    return {name: tensor for name, tensor in renamed if name is not None}


def rows_of(tensors: Mapping[str, Tensor], name: str, indices: Tensor) -> Tensor:
    """Some rows of a matrix, (*indices.shape, row length), without unpacking the others if `tensors` can do that."""
    return tensors.rows(name, indices) if isinstance(tensors, NamedTensors) else tensors[name][indices]


@runtime_checkable
class UnpacksOnDevice(Protocol):
    """Tensors of a file whose 4- to 8-bit weights can be unpacked to floats on a GPU, far faster than on a CPU."""

    def on(self, name: str, device: torch.device) -> Tensor:
        """The tensor `name` as floats on `device`."""


def tensor_on(tensors: Mapping[str, Tensor], name: str, device: torch.device) -> Tensor:
    """The tensor `name` on `device`, unpacked there if `tensors` can do that."""
    return tensors.on(name, device) if isinstance(tensors, UnpacksOnDevice) else tensors[name].to(device)


def _open(path: Path) -> OpenFile | GgufFile:
    if is_gguf(path):
        return GgufFile.open(path)
    return open_safetensors(path, [])

"""Several model files as one checked collection: all headers are read first, and each tensor at its access.

headers.py finds a wrong or truncated download before any tensor is read. A shard is one of several files that make up
one model. GGUF files may be among them (gguf_files.py). Knows the names of the published shards. Does not know the
model.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.entries import Entry
from lipsync_server.models.tensor_files.gguf_files import GgufFile
from lipsync_server.models.tensor_files.headers import is_gguf, read_entries

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def shards(folder: Path, stem: str = "diffusion_pytorch_model") -> list[Path]:
    """Return all safetensors files of a sharded model in `folder`. Raises WeightsError with the first missing file."""
    found = sorted(folder.glob(f"{stem}*.safetensors"))
    if not found:
        raise WeightsError(f"{folder} has no {stem}*.safetensors; download the weights first.")
    match = _SHARD.search(found[0].name)
    if match is None:
        return found[:1]
    total = int(match[2])
    wanted = [folder / f"{stem}-{index:05d}-of-{total:05d}.safetensors" for index in range(1, total + 1)]
    for path in wanted:
        if not path.exists():
            raise WeightsError(f"{path} is missing: the model comes in {total} files and all are needed.")
    return wanted


def shard_of(folder: Path, key: str, stem: str = "diffusion_pytorch_model") -> Path | None:
    """The shard that the published index names for a tensor; None without an index, or if the index has no such key."""
    try:
        index = json.loads((folder / f"{stem}.safetensors.index.json").read_text(encoding="utf-8"))
        return folder / str(index["weight_map"][key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class WeightFiles:
    """Tensors of several files under one set of names."""

    def __init__(self, paths: list[Path], *, may_repeat: bool = False) -> None:
        """Read the headers. may_repeat: whether files may share keys (markers); `entries` then has the last file's."""
        self.paths = paths
        self.entries: dict[str, Entry] = {}
        self._by_file: dict[Path, list[Entry]] = {}
        for path in paths:
            self._by_file[path] = read_entries(path)
            for entry in self._by_file[path]:
                if entry.key in self.entries and not may_repeat:
                    other = self.entries[entry.key].file.name
                    raise WeightsError(f"{path.name} and {other} both hold {entry.key}; only one may.")
                self.entries[entry.key] = entry

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(entry.n_bytes for entries in self._by_file.values() for entry in entries)

    def __iter__(self) -> Iterator[tuple[Path, "OpenFile | GgufFile"]]:
        """Yield the files one after the other, each open. At most one file is mapped at a time."""
        for path in self.paths:
            if is_gguf(path):
                yield path, GgufFile.open(path)
                continue
            with open_safetensors(path, self._by_file[path]) as file:
                yield path, file


class OpenFile:
    """One open safetensors file: its entries in storage order, and its tensors, mapped rather than read."""

    def __init__(self, path: Path, handle: "safe_open", entries: list[Entry]) -> None:
        self.path, self.entries, self._handle = path, entries, handle

    def tensor(self, key: str) -> Tensor:
        """The tensor `key` on the CPU, in the shape and type of the file."""
        try:
            tensor: Tensor = self._handle.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise _unreadable(self.path, error) from error
        return tensor

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *raised: object) -> None:
        self._handle.__exit__(*raised)


def open_safetensors(path: Path, entries: list[Entry]) -> OpenFile:
    """Map a safetensors file. entries: its header, as read_header gives it. Raises WeightsError with the reason."""
    try:
        return OpenFile(path, safe_open(path, framework="pt").__enter__(), entries)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} cannot be read ({error}); download it again.")

"""Model files as one checked collection: headers are read first, tensors one at a time when asked for.

A .safetensors file begins with the length of a JSON header, which lists each tensor's type, shape and bytes; the data
follow. So a wrong or truncated download is found from the header, before the tensors are read. A shard is one of
several files that make up one model. GGUF files may be among them (gguf_files.py). Knows the header and the names of
the published shards. Does not know the model.
"""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.entries import Entry
from lipsync_server.models.tensor_files.gguf_files import GgufFile, is_gguf

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_MAX_HEADER_BYTES = 100_000_000


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
    for key, info in header.items():
        if key == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        entries.append(Entry(path, key, info["dtype"], tuple(info["shape"]), begin, end - begin))
        if 8 + length + end > size:
            raise WeightsError(
                f"{path} is truncated: {key} should end at byte {8 + length + end:,} but the file has {size:,}. "
                "Download it again."
            )
    return sorted(entries, key=lambda entry: entry.begin)


def read_entries(path: Path) -> list[Entry]:
    """The tensors of a safetensors or a GGUF file in storage order; errors as read_header's."""
    return GgufFile.open(path).entries if is_gguf(path) else read_header(path)


def shards(folder: Path, stem: str = "diffusion_pytorch_model") -> list[Path]:
    """The safetensors files of a sharded model in `folder`, all of them or a WeightsError naming the first missing."""
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
    """The shard that the published index names for a tensor; None without an index or when it does not know the key."""
    try:
        index = json.loads((folder / f"{stem}.safetensors.index.json").read_text(encoding="utf-8"))
        return folder / str(index["weight_map"][key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class WeightFiles:
    """Tensors of several files under one set of names."""

    def __init__(self, paths: list[Path], *, may_repeat: bool = False) -> None:
        """Read the headers. may_repeat: files may share keys (markers), which `entries` then has of the last file."""
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
        return sum(entry.n_bytes for entries in self._by_file.values() for entry in entries)

    def __iter__(self) -> Iterator[tuple[Path, "OpenFile | GgufFile"]]:
        """Each file, open, one after the other: at most one is mapped at a time."""
        for path in self.paths:
            if is_gguf(path):
                yield path, GgufFile.open(path)
                continue
            try:
                with safe_open(path, framework="pt") as handle:
                    yield path, OpenFile(path, handle, self._by_file[path])
            except (OSError, SafetensorError) as error:
                raise WeightsError(f"{path} cannot be read ({error}); download it again.") from error


class OpenFile:
    """One open file: its entries in storage order, and its tensors, mapped rather than read."""

    def __init__(self, path: Path, handle: "safe_open", entries: list[Entry]) -> None:
        self.path, self.entries, self._handle = path, entries, handle

    def tensor(self, key: str) -> Tensor:
        """The tensor `key` on the CPU, in the shape and type of the file."""
        tensor: Tensor = self._handle.get_tensor(key)
        return tensor

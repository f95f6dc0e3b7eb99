"""Safetensors files as one checked collection: headers are read first, tensors one at a time when asked for.

A .safetensors file begins with the length of a JSON header, which lists each tensor's type, shape and bytes; the data
follow. So a wrong or truncated download is found from the header, before the tensors are read. A shard is one of
several files that make up one model. Knows the header and the names of the published shards. Does not know the model.
"""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lipsync_server.errors import WeightsError

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Entry:
    """One stored tensor: where, its safetensors type name, its shape and its size."""

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    n_bytes: int


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

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.entries: dict[str, Entry] = {}
        for path in paths:
            for entry in read_header(path):
                if entry.key in self.entries:
                    other = self.entries[entry.key].file.name
                    raise WeightsError(f"{path.name} and {other} both hold {entry.key}; only one may.")
                self.entries[entry.key] = entry

    @property
    def n_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self.entries.values())

    def __iter__(self) -> Iterator[tuple[Path, "OpenFile"]]:
        """Each file, open, one after the other: at most one is mapped at a time."""
        for path in self.paths:
            try:
                with safe_open(path, framework="pt") as handle:
                    yield path, OpenFile(path, handle, [e for e in self.entries.values() if e.file == path])
            except (OSError, SafetensorError) as error:
                raise WeightsError(f"{path} cannot be read ({error}); download it again.") from error


class OpenFile:
    """One open file: its entries in storage order, and its tensors, mapped rather than read."""

    def __init__(self, path: Path, handle: "safe_open", entries: list[Entry]) -> None:
        self.path, self.entries, self._handle = path, entries, handle

    def tensor(self, key: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(key)
        return tensor

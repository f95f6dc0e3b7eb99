"""The paths of golden files: a small part of them is in tests/data, all of them are in ../shared beside the checkout.

A file has the same name in both places. Where the whole file exists, tests use the whole file; elsewhere they use the
committed file, which has fewer cases. Tests therefore read their cases from the files (`cases`, `present`), so that a
plain clone skips none.

Tensors are committed packed (packed_tensors.py), and arrays (.npz) compressed by xz; of many results every n-th value
is committed (sampled.py). The first test run unpacks the files into .cache/golden, once for each content of tests/data.
"""

import gzip
import hashlib
import json
import lzma
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from packed_tensors import unpack
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

CHECKOUT = Path(__file__).resolve().parents[2]
PACKED = ".packed"


class GoldenFiles:
    """The golden files of one model, for example `infinitetalk`."""

    def __init__(self, model: str) -> None:
        self.committed = unpacked(CHECKOUT / "tests" / "data" / model)
        self.whole = CHECKOUT.parent / "shared" / model

    def path(self, name: str) -> Path:
        """The file or folder `name`; raises FileNotFoundError where it is neither beside the checkout nor committed."""
        for folder in (self.whole, self.committed):
            if (folder / name).exists():
                return folder / name
        raise FileNotFoundError(f"the golden file {name} is neither in {self.whole} nor in {self.committed}")

    def present(self, form: str, values: Iterable[str]) -> list[str]:
        """The values whose file exists. form: the file's name with {} for the value."""
        return [
            value
            for value in values
            if any((folder / form.format(value)).exists() for folder in (self.whole, self.committed))
        ]

    def cases(self, name: str) -> list[str]:
        """The names of the cases in a file of arrays or tensors: the first part of each name, up to a dot."""
        return sorted({key.partition(".")[0] for key in _names(self.path(name))} - {"in"})

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a file; bfloat16 ones hold exact values and are returned as float32."""
        return {key: t.float() if t.is_floating_point() else t for key, t in load_file(self.path(name)).items()}

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path(name)) as file:
            return {key: file[key] for key in file.files}

    def json(self, name: str) -> Any:
        """The content of a .json or .json.gz file."""
        path = self.path(name)
        return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


@cache
def unpacked(folder: Path) -> Path:
    """A copy of `folder` in which every packed file is unpacked. Several processes of a test run may ask at once."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    copy = CHECKOUT / ".cache" / "golden" / f"{folder.name}-{content.hexdigest()[:16]}"
    if copy.exists():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
        made = Path(scratch) / folder.name
        for path in files:
            target = made / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == PACKED:
                unpack(path, target.with_suffix(".safetensors"))
            elif path.suffix == ".xz":
                target.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            else:
                shutil.copyfile(path, target)
        try:
            made.rename(copy)
        except OSError:  # another process was first
            if not copy.exists():
                raise
    return copy


@cache
def _names(path: Path) -> tuple[str, ...]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            return tuple(file.files)
    with safe_open(path, "pt") as file:
        return tuple(file.keys())

"""One stored tensor of a model file, as the file's header describes it. No format and no torch here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One stored tensor: its file, the format's own name of its type, its shape, and its offset and size in bytes."""

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    n_bytes: int

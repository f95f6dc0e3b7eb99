"""Writes that survive a power cut: the bytes of a file, the names in a folder, a whole small file.

A rename is atomic but not durable: after a power cut the folder may still have the old name, and a renamed file whose
bytes were never synced may be empty. So the order is always the same: sync the file, rename it, sync the folder. Some
network file systems cannot sync a folder. Their error is ignored, because there is no better way. Every function here
may block. Knows files only.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def sync_file(path: Path) -> None:
    """Return when the bytes of the file at `path` are on disk. Raises OSError if they cannot be stored."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder`, for example after a rename, are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse to sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, path: Path) -> None:
    """Rename the complete file `partial` to `path`, durably.

    After a crash `path` is the whole file or does not exist.
    """
    sync_file(partial)
    partial.replace(path)
    sync_folder(path.parent)


def write_file(path: Path, write: Callable[[BinaryIO], object], *, mode: int = 0o644) -> None:
    """Make the file `path` durably. write: called with the open file, to write its bytes.

    After a crash the file is whole or does not exist.
    """
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            write(file)
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)

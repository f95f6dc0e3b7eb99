"""Writes untrusted bytes to a file while they arrive: counts and hashes them, and writes outside the event loop.

Knows files. Does not know where the bytes come from.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lipsync_server.errors import TooLarge
from lipsync_server.jobs.files import disk_errors

_WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class Taken:
    """A received file of the form field `field`; `name` is the file name that the sender gave."""

    field: str
    path: Path
    name: str
    n_bytes: int
    sha256: str


class FileSink:
    """Writes chunks to a new file.

    Raises TooLarge before a chunk beyond `max_bytes` reaches the disk, and DiskFull when the disk is full.
    """

    def __init__(self, path: Path, field: str, max_bytes: int) -> None:
        self._path = path
        self._field = field
        self._max_bytes = max_bytes
        self._waiting = bytearray()
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.n_bytes = 0

    async def __aenter__(self) -> "FileSink":
        self._file = await asyncio.to_thread(self._path.open, "xb")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            if error is None:
                await asyncio.to_thread(self._flush, bytes(self._waiting))
        finally:
            await asyncio.to_thread(self._file.close)

    async def write(self, chunk: bytes) -> None:
        """Add the next bytes of the file."""
        self.n_bytes += len(chunk)
        if self.n_bytes > self._max_bytes:
            raise TooLarge(
                f"{self._field} is larger than the limit of {self._max_bytes / 2**20:.0f} MiB.", field=self._field
            )
        self._waiting += chunk
        if len(self._waiting) >= _WRITE_BYTES:
            full, self._waiting = bytes(self._waiting), bytearray()
            await asyncio.to_thread(self._flush, full)

    def _flush(self, data: bytes) -> None:
        assert self._file is not None
        with disk_errors():
            self._hash.update(data)
            self._file.write(data)
            self._file.flush()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all bytes so far, in hexadecimal digits."""
        return self._hash.hexdigest()

"""Locks the data folder for one server: two servers would each treat the other's running jobs as lost.

The kernel holds the lock, so that the lock ends with the process, however the process ends.
"""

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.errors import LipsyncError


class DataLock:
    """The lock of a data folder while the server runs."""

    def __init__(self, data_dir: Path) -> None:
        """Take the lock. Raises LipsyncError when another server holds it."""
        self._data_dir = data_dir
        self._descriptor = self._take()

    def renew(self) -> None:
        """Take the lock again after the volume was mounted anew. Raises LipsyncError when another server has it."""
        path = self._data_dir / "lock"
        with suppress(OSError):  # a file of a volume that is gone cannot be asked
            if path.exists() and os.path.samestat(os.fstat(self._descriptor), path.stat()):
                return
        old, self._descriptor = self._descriptor, self._take()
        _close(old)

    def renew_if_removed(self) -> None:
        """Take the lock again if somebody has removed its file. Raises LipsyncError when another server has it."""
        if not (self._data_dir / "lock").exists():
            self.renew()

    def release(self) -> None:
        """Release the lock."""
        _close(self._descriptor)

    def _take(self) -> int:
        descriptor = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LipsyncError(
                f"Another server is using {self._data_dir}. Stop it, or give this one a folder of its own: "
                "LIPSYNC_DATA_DIR."
            ) from None
        return descriptor


def _close(descriptor: int) -> None:
    with suppress(OSError):  # a file of a volume that is gone is closed, with an error
        os.close(descriptor)


@asynccontextmanager
async def lock_data_dir(data_dir: Path) -> AsyncIterator[DataLock]:
    """Lock the folder. Raises LipsyncError when another server holds the lock.

    Opening and closing a file waits while the volume is stuck, so both are done in threads that may hang.
    """
    lock = await in_daemon_thread(lambda: DataLock(data_dir))
    try:
        yield lock
    finally:
        await in_daemon_thread(lock.release)

"""Locks the data folder for one server: two servers would each treat the other's running jobs as lost.

The kernel holds the lock, so that the lock ends with the process, however the process ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lipsync_server.errors import LipsyncError


@contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Lock the folder. Raises LipsyncError when another server holds the lock."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LipsyncError(
                f"Another server is using {data_dir}. Stop it, or give this one a folder of its own: LIPSYNC_DATA_DIR."
            ) from None
        yield
    finally:
        os.close(descriptor)

"""A volume that never answers, as a frozen network disk: a FUSE mount whose program does not serve it. Needs root."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FUSE = Path("/dev/fuse")
_MNT_DETACH = 2


def why_not() -> str | None:
    """Why such a volume cannot be made here, or None."""
    return None if _FUSE.exists() and os.geteuid() == 0 else "a stuck volume needs root and /dev/fuse"


@contextmanager
def stuck_volume(folder: Path) -> Iterator[None]:
    """While the block runs, every access below `folder` waits until its process is killed. Later accesses fail."""
    libc = ctypes.CDLL(None, use_errno=True)
    connection = os.open(_FUSE, os.O_RDWR)
    options = f"fd={connection},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    try:
        if libc.mount(b"stuck", os.fsencode(folder), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        try:
            yield
        finally:
            libc.umount2(os.fsencode(folder), _MNT_DETACH)
    finally:
        os.close(connection)

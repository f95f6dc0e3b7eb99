"""Find out whether a folder lies on a disk that another machine or another program serves, as NFS, SMB or FUSE.

SQLite's write-ahead log (WAL) has an index. On a local disk SQLite maps the index into memory from a file, so that
several processes can use the database. A served disk may not support that, and when it stops answering, the kernel
does not even let a killed process end before the mapped file is written. There SQLite keeps the index in the memory
of this process instead (its VFS `unix-excl`), and no other process can open the database meanwhile.
"""

from pathlib import Path
from urllib.parse import quote

import psutil

_SERVED = ("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "ceph", "gluster", "lustre", "afs", "beegfs", "gpfs",
           "fakeowner", "drvfs", "vboxsf", "prl_fs", "vmhgfs")  # fmt: skip
"""Beginnings of the names of such file systems; the last five pass a desktop's folder on to a virtual machine."""


def is_served(folder: Path) -> bool:
    """Whether the file system of `folder` is served by another machine or program. Waits while the disk is stuck."""
    place = folder.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if place.is_relative_to(mount.mountpoint)]
    # Of several mounts at one place the last one is used.
    nearest = max(reversed(mounts), key=lambda mount: len(mount.mountpoint), default=None)
    return nearest is not None and nearest.fstype.startswith(_SERVED)


def database_address(path: Path) -> str:
    """The URI under which SQLite opens the database at `path`. Waits while the disk is stuck."""
    return f"file:{quote(str(path.absolute()))}{'?vfs=unix-excl' if is_served(path.parent) else ''}"

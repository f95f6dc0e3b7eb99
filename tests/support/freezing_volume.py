"""A volume that works and can be frozen and thawed while a server uses it, as a network disk whose server is lost.

A FUSE file system in a process of its own that passes every request on to a folder. SIGUSR1 freezes it: every call
that needs the volume then waits until SIGCONT. When the process is killed, every call fails with ENOTCONN. Needs root.

A process that ends closes its files. Where a FUSE program asks for a message at each close (FLUSH), the kernel waits
for its answer even in a killed process; with a hanging network disk (NFS, SMB) a killed process ends. This volume
behaves like a network disk: it refuses FLUSH, so that the kernel does not send one again.

`python freezing_volume.py BACKING FOLDER` mounts and serves until it is killed.
"""

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from stuck_volume import why_not

__all__ = ["FreezingVolume", "why_not"]

_MNT_DETACH = 2
_START_S = 20.0
_LOOK_EVERY_MS = 20
_REQUEST_BYTES = 1 << 20
_WRITE_BYTES = 128 << 10
_HEADER = struct.Struct("<IIQQIIII")
_NO_ANSWER = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
_OPEN = 14
_WRITING = (4, 6, 8, 9, 10, 11, 12, 13, 16, 20, 35, 43, 45)
"""SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, FSYNC, CREATE, FALLOCATE, RENAME2"""


class FreezingVolume:
    """Mounted at `folder` while the block runs; its files lie in `backing`."""

    def __init__(self, backing: Path, folder: Path) -> None:
        self.backing, self.folder = backing, folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "FreezingVolume":
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()
        self.unmount()

    def mount(self) -> None:
        command = (sys.executable, __file__, str(self.backing), str(self.folder))
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + _START_S
        while not os.path.ismount(self.folder):
            assert self._process.poll() is None and time.monotonic() < deadline, "the volume was not mounted"
            time.sleep(0.02)

    def unmount(self) -> None:
        with suppress(OSError):
            _system_call("umount2", os.fsencode(self.folder), _MNT_DETACH)

    def freeze(self) -> None:
        """From now on every call that needs the volume waits.

        The process stops itself between two requests: the kernel keeps a killed caller whose request has begun.
        """
        self._signal(signal.SIGUSR1)
        assert self._process is not None
        about = Path(f"/proc/{self._process.pid}/stat")
        deadline = time.monotonic() + _START_S
        while about.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline, "the volume did not freeze"
            time.sleep(0.01)

    def swallow(self) -> None:
        """From now on every call that needs the volume waits, also in a killed process, until `thaw`.

        The volume takes the requests and answers none, as a disk whose driver hangs.
        """
        self._signal(signal.SIGUSR2)

    def forbid_writing(self) -> None:
        """From now on every call that writes fails, as on a disk that the kernel has made read-only after errors."""
        self._signal(signal.SIGHUP)

    def allow_writing(self) -> None:
        self._signal(signal.SIGWINCH)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def die(self) -> None:
        """From now on every call that needs the volume fails, on files that are open too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def _system_call(name: str, *values: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*values) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass
class _Node:
    """A name below the backing folder; a rename moves it."""

    parent: int
    name: bytes


@dataclass
class _PassThrough:
    """Answers the kernel's FUSE requests, one after the other. The protocol is that of linux/fuse.h, version 7.31."""

    backing: bytes
    nodes: dict[int, _Node] = field(default_factory=lambda: {1: _Node(1, b"")})
    listings: dict[int, list[tuple[bytes, os.stat_result]]] = field(default_factory=dict)

    freezes: bool = False
    swallows: bool = False
    is_read_only: bool = False
    swallowed: list[bytes] = field(default_factory=list)

    def serve(self, connection: int) -> None:
        signal.signal(signal.SIGUSR1, self._freeze_soon)
        signal.signal(signal.SIGUSR2, self._swallow)
        signal.signal(signal.SIGCONT, self._answer_again)
        signal.signal(signal.SIGHUP, self._forbid_writing)
        signal.signal(signal.SIGWINCH, self._allow_writing)
        waiting = select.poll()
        waiting.register(connection, select.POLLIN)
        while True:
            if self.freezes:
                self.freezes = False
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.swallowed and not self.swallows:
                self._answer(connection, self.swallowed.pop(0))
            if not waiting.poll(_LOOK_EVERY_MS):
                continue
            try:
                request = os.read(connection, _REQUEST_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # unmounted
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                raise
            if self.swallows:
                self.swallowed.append(request)
            else:
                self._answer(connection, request)

    def _answer(self, connection: int, request: bytes) -> None:
        """Do what a request wants and send the kernel the answer."""
        _, code, unique, node, *_ = _HEADER.unpack_from(request)
        body = request[_HEADER.size :]
        answer, number = b"", 0
        try:
            if self.is_read_only and (code in _WRITING or (code == _OPEN and body[0] & os.O_ACCMODE)):
                raise OSError(errno.EROFS, "read-only")
            answer = self._answers[code](self, node, body) if code in self._answers else _refuse()
        except OSError as error:
            number = error.errno or errno.EIO
        if code not in _NO_ANSWER:
            with suppress(FileNotFoundError):  # the request was interrupted
                os.write(connection, struct.pack("<IiQ", 16 + len(answer), -number, unique) + answer)

    def _freeze_soon(self, number: int, frame: object) -> None:
        self.freezes = True

    def _swallow(self, number: int, frame: object) -> None:
        self.swallows = True

    def _answer_again(self, number: int, frame: object) -> None:
        self.swallows = False

    def _forbid_writing(self, number: int, frame: object) -> None:
        self.is_read_only = True

    def _allow_writing(self, number: int, frame: object) -> None:
        self.is_read_only = False

    def _path(self, node: int, name: bytes = b"") -> bytes:
        parts = [name] if name else []
        while node != 1:
            parts.append(self.nodes[node].name)
            node = self.nodes[node].parent
        return os.path.join(self.backing, *reversed(parts))

    def _node(self, parent: int, name: bytes) -> int:
        for number, node in self.nodes.items():
            if number != 1 and node.parent == parent and node.name == name:
                return number
        self.nodes[number := max(self.nodes) + 1] = _Node(parent, name)
        return number

    def _entry(self, parent: int, name: bytes) -> bytes:
        about = os.lstat(self._path(parent, name))
        return struct.pack("<QQQQII", self._node(parent, name), 0, 0, 0, 0, 0) + _attributes(about)

    def _init(self, node: int, body: bytes) -> bytes:
        big_writes = 1 << 5
        return struct.pack("<IIIIHHIIHHII24x", 7, 31, 1 << 17, big_writes, 16, 12, _WRITE_BYTES, 1, 0, 0, 0, 0)

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(node, body.rstrip(b"\0"))

    def _forget(self, node: int, body: bytes) -> bytes:
        return b""

    def _get_attributes(self, node: int, body: bytes) -> bytes:
        flags, _, handle = struct.unpack_from("<IIQ", body)
        about = os.fstat(handle) if flags & 1 else os.lstat(self._path(node))
        return struct.pack("<QII", 0, 0, 0) + _attributes(about)

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, handle, size = struct.unpack_from("<IIQQ", body)
        (mode,) = struct.unpack_from("<I", body, 68)
        place = handle if valid & 64 else self._path(node)
        if valid & 1:
            os.chmod(place, stat.S_IMODE(mode))
        if valid & 8:
            os.truncate(place, size)
        return struct.pack("<QII", 0, 0, 0) + _attributes(os.stat(place))

    def _make_folder(self, node: int, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        name = body[8:].rstrip(b"\0")
        os.mkdir(self._path(node, name), stat.S_IMODE(mode))
        return self._entry(node, name)

    def _unlink(self, node: int, body: bytes) -> bytes:
        os.unlink(self._path(node, body.rstrip(b"\0")))
        return self._drop(node, body.rstrip(b"\0"))

    def _remove_folder(self, node: int, body: bytes) -> bytes:
        os.rmdir(self._path(node, body.rstrip(b"\0")))
        return self._drop(node, body.rstrip(b"\0"))

    def _drop(self, parent: int, name: bytes) -> bytes:
        self.nodes[self._node(parent, name)].name = b"\0removed"
        return b""

    def _rename(self, node: int, body: bytes, skip: int = 8) -> bytes:
        (folder,) = struct.unpack_from("<Q", body)
        old, new, *_ = body[skip:].split(b"\0")
        os.rename(self._path(node, old), self._path(folder, new))
        self._drop(folder, new)
        moved = self.nodes[self._node(node, old)]
        moved.parent, moved.name = folder, new
        return b""

    def _rename_with_flags(self, node: int, body: bytes) -> bytes:
        return self._rename(node, body, skip=16)

    def _open(self, node: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        return struct.pack("<QII", os.open(self._path(node), flags & ~os.O_NOFOLLOW), 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        name = body[16:].rstrip(b"\0")
        handle = os.open(self._path(node, name), flags | os.O_CREAT, stat.S_IMODE(mode))
        return self._entry(node, name) + struct.pack("<QII", handle, 0, 0)

    def _read(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    def _write(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def _release(self, node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _sync(self, node: int, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def _succeed(self, node: int, body: bytes) -> bytes:
        return b""

    def _space(self, node: int, body: bytes) -> bytes:
        about = os.statvfs(self.backing)
        counts = (about.f_blocks, about.f_bfree, about.f_bavail, about.f_files, about.f_ffree)
        return struct.pack("<QQQQQIIII24x", *counts, about.f_bsize, about.f_namemax, about.f_frsize, 0)

    def _open_folder(self, node: int, body: bytes) -> bytes:
        path = self._path(node)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        names = os.listdir(path)
        self.listings[handle] = [(name, os.lstat(os.path.join(path, name))) for name in names]
        return struct.pack("<QII", handle, 0, 0)

    def _read_folder(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        out = b""
        for number, (name, about) in enumerate(self.listings[handle][offset:], start=offset + 1):
            entry = struct.pack("<QQII", about.st_ino, number, len(name), stat.S_IFMT(about.st_mode) >> 12) + name
            entry += b"\0" * (-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out

    def _release_folder(self, node: int, body: bytes) -> bytes:
        del self.listings[struct.unpack_from("<Q", body)[0]]
        return self._release(node, body)

    _answers: "dict[int, Callable[[_PassThrough, int, bytes], bytes]]" = field(
        init=False,
        default_factory=lambda: {
            1: _PassThrough._lookup,
            2: _PassThrough._forget,
            3: _PassThrough._get_attributes,
            4: _PassThrough._set_attributes,
            9: _PassThrough._make_folder,
            10: _PassThrough._unlink,
            11: _PassThrough._remove_folder,
            12: _PassThrough._rename,
            14: _PassThrough._open,
            15: _PassThrough._read,
            16: _PassThrough._write,
            17: _PassThrough._space,
            18: _PassThrough._release,
            20: _PassThrough._sync,
            26: _PassThrough._init,
            27: _PassThrough._open_folder,
            28: _PassThrough._read_folder,
            29: _PassThrough._release_folder,
            30: _PassThrough._succeed,
            35: _PassThrough._create,
            36: _PassThrough._succeed,
            42: _PassThrough._forget,
            45: _PassThrough._rename_with_flags,
        },
    )


def _refuse() -> bytes:
    raise OSError(errno.ENOSYS, "not needed here")


def _attributes(about: os.stat_result) -> bytes:
    times = (about.st_atime_ns, about.st_mtime_ns, about.st_ctime_ns)
    return struct.pack(
        "<QQQQQQIIIIIIIIII",
        about.st_ino,
        about.st_size,
        about.st_blocks,
        *(time_ns // 10**9 for time_ns in times),
        *(time_ns % 10**9 for time_ns in times),
        about.st_mode,
        about.st_nlink,
        about.st_uid,
        about.st_gid,
        about.st_rdev,
        about.st_blksize,
        0,
    )


def main() -> None:
    backing, folder = sys.argv[1:3]
    connection = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={connection},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    _system_call("mount", b"freezing", os.fsencode(folder), b"fuse", 0, options.encode())
    _PassThrough(os.fsencode(backing)).serve(connection)


if __name__ == "__main__":
    main()

"""Transfers files between the server and the machines of a cluster, in pieces.

Server and actors both use this module. A file appears under its name by a rename, once its last piece is on disk. Knows
files and which files of a render belong to a resume point. Does not know Ray.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lipsync_server.durable import publish
from lipsync_server.errors import LipsyncError, WorkerCrashed
from lipsync_server.workers.rendering.resume_point import RESUME_POINT_FILES

PIECE_BYTES = 2 * 1024 * 1024
# The files of a resume point in the order of their transfer: the resume point counts frames that must exist already.
_RESUME = ("segments/*.mp4", "render.txt", RESUME_POINT_FILES)


@dataclass(frozen=True)
class Piece:
    """The next bytes of the file `name`, a path below the receiver's folder; `last` completes it."""

    name: str
    data: bytes
    last: bool


@dataclass(frozen=True)
class Kept:
    """The complete list of files from which a second try resumes."""

    names: tuple[str, ...]


def pieces(path: Path, name: str) -> Iterator[Piece]:
    """Yield the file at `path` in pieces; an empty file yields one empty piece."""
    with path.open("rb") as file:
        data = file.read(PIECE_BYTES)
        while True:
            following = file.read(PIECE_BYTES)
            yield Piece(name, data, last=not following)
            if not following:
                return
            data = following


class Receiver:
    """Writes pieces to files below `folder`. Pieces of one file must arrive in order; files must not mix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def take(self, piece: Piece, *, complete: bool = True) -> None:
        """Store a piece. The last piece completes the file, unless `complete` is False; then complete() does."""
        path = _below(self._folder, piece.name)
        if self._file is None or piece.name != self._name:
            self.drop()
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._name, self._file, self._digest = piece.name, _partial(path).open("wb"), hashlib.sha256()
        self._file.write(piece.data)
        self._digest.update(piece.data)
        if piece.last and complete:
            self.complete()

    def complete(self, sha256: str | None = None) -> None:
        """Rename the file to its name. Raises WorkerCrashed when its digest is not `sha256`: another try may help."""
        if self._file is None or (sha256 is not None and sha256 != self._digest.hexdigest()):
            raise WorkerCrashed("A file arrived damaged from a machine of the cluster.")
        self._file.close()
        self._file = None
        path = _below(self._folder, self._name)
        publish(_partial(path), path)

    def drop(self) -> None:
        """Remove a file whose transfer was not completed."""
        if self._file is not None:
            self._file.close()
            self._file = None
            _partial(_below(self._folder, self._name)).unlink(missing_ok=True)


class ResumeFiles:
    """Watches `scratch` for files from which a second try resumes, and reports each once."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._sent = frozenset(resume_files(scratch))

    def news(self) -> Iterator[Piece | Kept]:
        """The new files since the last call, and the list of all files that are still needed."""
        names = resume_files(self._scratch)
        if not set(names) - self._sent:
            return
        for name in names:
            if name not in self._sent:
                # The render continues meanwhile and deletes older resume points.
                with suppress(FileNotFoundError):
                    yield from pieces(self._scratch / name, name)
        self._sent = frozenset(names)
        yield Kept(tuple(names))


def resume_files(scratch: Path) -> list[str]:
    """The files in `scratch` from which to resume, as relative names in transfer order; [] without a resume point."""
    # Resume points are listed first: the frames that a listed one counts are then certainly stored.
    found = {pattern: sorted(scratch.glob(pattern)) for pattern in reversed(_RESUME)}
    if not found[_RESUME[-1]]:
        return []
    return [path.relative_to(scratch).as_posix() for pattern in _RESUME for path in found[pattern]]


def keep_only(scratch: Path, names: tuple[str, ...]) -> None:
    """Remove the resume points and frames that are not in `names`."""
    for pattern in _RESUME:
        for path in scratch.glob(pattern):
            if path.relative_to(scratch).as_posix() not in names:
                path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _below(folder: Path, name: str) -> Path:
    """The path of the file `name` in `folder`. Raises LipsyncError for a name that leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or part.startswith(".") for part in parts):
        raise LipsyncError(f"A machine of the cluster named a file {name!r}, which is outside of the job's folder.")
    return folder.joinpath(*parts)

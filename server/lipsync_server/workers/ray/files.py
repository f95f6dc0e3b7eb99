"""Files that travel between the server and the machines of a cluster, in pieces.

Knows files and which of a render's files a second try resumes from. Knows neither Ray nor who is at the other end: both
ends use this module. A file appears by rename once its last piece is on disk.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lipsync_server.durable import publish
from lipsync_server.errors import LipsyncError, WorkerCrashed

PIECE_BYTES = 2 * 1024 * 1024
# What render.py resumes from, in the order in which it must arrive: a checkpoint counts frames that are there already.
_RESUME = ("segments/*.mp4", "render.txt", "checkpoint-*.npz")


@dataclass(frozen=True)
class Piece:
    """The next bytes of the file `name`, a path below the receiver's folder; `last` completes it."""

    name: str
    data: bytes
    last: bool


@dataclass(frozen=True)
class Kept:
    """The files to resume from are these and no others."""

    names: tuple[str, ...]


def pieces(path: Path, name: str) -> Iterator[Piece]:
    """The file at `path` in pieces; at least one, also of an empty file."""
    with path.open("rb") as file:
        data = file.read(PIECE_BYTES)
        while True:
            following = file.read(PIECE_BYTES)
            yield Piece(name, data, last=not following)
            if not following:
                return
            data = following


class Receiver:
    """Puts pieces together below `folder`. Pieces of one file come in order; files may not mix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def take(self, piece: Piece, *, complete: bool = True) -> None:
        """Store a piece. Its last one completes the file, unless `complete` is False: then complete() does."""
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
        """Let the file appear. Raises WorkerCrashed when its digest is not `sha256`: another try may help."""
        if self._file is None or (sha256 is not None and sha256 != self._digest.hexdigest()):
            raise WorkerCrashed("A file arrived damaged from a machine of the cluster.")
        self._file.close()
        self._file = None
        path = _below(self._folder, self._name)
        publish(_partial(path), path)

    def drop(self) -> None:
        """Forget a file that did not come to its end."""
        if self._file is not None:
            self._file.close()
            self._file = None
            _partial(_below(self._folder, self._name)).unlink(missing_ok=True)


class ResumeFiles:
    """What appears in `scratch` for a second try to resume from, told once each."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._told = frozenset(resume_files(scratch))

    def news(self) -> Iterator[Piece | Kept]:
        """Files that are new since the last call, and which of the old ones still count."""
        names = resume_files(self._scratch)
        if not set(names) - self._told:
            return
        for name in names:
            if name not in self._told:
                # The render goes on meanwhile and forgets its older checkpoints.
                with suppress(FileNotFoundError):
                    yield from pieces(self._scratch / name, name)
        self._told = frozenset(names)
        yield Kept(tuple(names))


def resume_files(scratch: Path) -> list[str]:
    """Names below `scratch` of the files to resume from, in the order to send them; none without a checkpoint."""
    # Checkpoints are listed first: the frames that a listed one counts are then stored for certain.
    found = {pattern: sorted(scratch.glob(pattern)) for pattern in reversed(_RESUME)}
    if not found[_RESUME[-1]]:
        return []
    return [path.relative_to(scratch).as_posix() for pattern in _RESUME for path in found[pattern]]


def keep_only(scratch: Path, names: tuple[str, ...]) -> None:
    """Remove the files to resume from that are not among `names`."""
    for pattern in _RESUME:
        for path in scratch.glob(pattern):
            if path.relative_to(scratch).as_posix() not in names:
                path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _below(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or part.startswith(".") for part in parts):
        raise LipsyncError(f"A machine of the cluster named a file {name!r}, which is outside of the job's folder.")
    return folder.joinpath(*parts)

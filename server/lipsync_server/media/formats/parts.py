"""Finds the files within a recording that was joined by appending whole files to each other.

The sentences of a text-to-speech service are often joined in this way: `cat a.wav b.wav`, or Ogg streams one after
the other, which the Ogg standard calls a chain. A decoder would read the first file and stop. This module finds each
file by its first bytes, so that all of the speech is used. Bytes before the first file, such as a tag, are left out.
"""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lipsync_server.errors import InvalidAudio
from lipsync_server.media.formats.container import STRAY_BYTES, Container, boxes, tag_bytes
from lipsync_server.media.formats.wav import open_ended_header

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_PARTS = 1000
_CHUNK_BYTES = 1 << 20
_LOOKAHEAD_BYTES = 64
_OGG_HEADER_BYTES = 27
_OGG_FIRST_PAGE = 2


@dataclass(frozen=True)
class Part:
    """One whole file within a file: the offset of its first byte, and of the first byte behind it.

    patches: bytes of the header that a decoder has to see in place of those in the file, by their offsets in the part.
    """

    start: int
    end: int
    patches: tuple[tuple[int, bytes], ...] = ()


class _PartFile(io.RawIOBase):
    """A file object over one part."""

    def __init__(self, path: Path, part: Part) -> None:
        self._file, self._part, self._position = path.open("rb", buffering=0), part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._part.end - self._part.start}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        left = max(0, self._part.end - self._part.start - self._position)
        self._file.seek(self._part.start + self._position)
        n_read = self._file.readinto(view[:left]) or 0
        for offset, patch in self._part.patches:
            for at, byte in enumerate(patch, offset - self._position):
                if 0 <= at < n_read:
                    view[at] = byte
        self._position += n_read
        return n_read

    def close(self) -> None:
        self._file.close()
        super().close()


def open_part(path: Path, part: Part) -> BinaryIO:
    """`part` of the file at `path`, opened as a file of its own."""
    return io.BufferedReader(_PartFile(path, part))


def find_parts(path: Path, container: Container) -> list[Part]:
    """The whole files in `path`, in order; an ordinary recording is one. Raises InvalidAudio beyond MAX_PARTS."""
    size = path.stat().st_size
    starts: list[int] = []
    with path.open("rb") as file:
        for start in _starts(file, size, container):
            starts.append(start)
            if len(starts) > MAX_PARTS:
                raise InvalidAudio(
                    f"The recording is joined from more than {MAX_PARTS} files. Join them with a sound editor."
                )
    starts = starts or [0]
    parts = [Part(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]
    return [_patched(path, part) for part in parts] if container == "wav" else parts


def _patched(path: Path, part: Part) -> Part:
    """`part` with the patches that a wav header without a length needs."""
    with open_part(path, part) as file:
        return replace(part, patches=tuple(open_ended_header(file).items()))


def _starts(file: BinaryIO, size: int, container: Container) -> Iterator[int]:
    """Offsets at which a file of this container begins."""
    if container == "ogg":
        yield from _ogg_links(file)
    elif container == "mov":
        yield 0
        yield from _movies(file, size)
    elif container == "mp3":
        yield from _mp3s(file)
    elif (beginning := _BEGINNINGS.get(container)) is not None:
        yield from _found(file, *beginning)


@dataclass(frozen=True)
class _Page:
    """One page of an Ogg stream: its first byte, the byte behind it, and whether it begins a stream."""

    start: int
    end: int
    is_first: bool


def _ogg_pages(file: BinaryIO) -> Iterator[_Page]:
    """The pages in order. Bytes between them that belong to no page are passed over."""
    position = 0
    while True:
        file.seek(position)
        page = file.read(_OGG_HEADER_BYTES + 255)
        if len(page) < _OGG_HEADER_BYTES:
            return
        if page[:4] != b"OggS":
            file.seek(position)
            lost = next(_found(file, re.compile(b"OggS"), lambda head: head[4:5] == b"\0"), None)
            if lost is None:
                return
            position += lost
            continue
        lengths = page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + page[26]]
        found = _Page(position, position + _OGG_HEADER_BYTES + page[26] + sum(lengths), bool(page[5] & _OGG_FIRST_PAGE))
        yield found
        position = found.end


def _ogg_links(file: BinaryIO) -> Iterator[int]:
    """Offsets of the chain's links: a link begins at a first page that comes after other pages or other bytes."""
    before: _Page | None = None
    for page in _ogg_pages(file):
        if page.is_first and not (before is not None and before.is_first and before.end == page.start):
            yield page.start
        before = page


def ogg_end(file: BinaryIO) -> int | None:
    """The offset behind the last page of an Ogg stream; None without a page."""
    end = None
    for page in _ogg_pages(file):
        end = page.end
    return end


def first_match(file: BinaryIO, mark: re.Pattern[bytes]) -> int | None:
    """Distance from the file's position to the first occurrence of `mark`, or None."""
    return next(_found(file, mark, lambda head: True), None)


def _mp3s(file: BinaryIO) -> Iterator[int]:
    """Offsets of mp3 files. The first may be without a tag; each later one begins with a tag behind the tag before."""
    head = file.read(_CHUNK_BYTES)
    begin = len(head) - len(head.lstrip(STRAY_BYTES))
    yield begin
    file.seek(begin)
    starts = [begin + distance for distance in _found(file, *_BEGINNINGS["mp3"])]
    for start in starts:
        file.seek(begin)
        if start > begin + tag_bytes(file.read(10)):
            yield start
            begin = start


def _movies(file: BinaryIO, size: int) -> Iterator[int]:
    """Offsets of later MP4 or MOV files: a file begins at an ftyp box behind a complete index."""
    has_index = False
    for box in boxes(file, 0, size):
        if box.kind == b"ftyp" and has_index:
            yield box.start - 8
            has_index = False
        has_index = has_index or box.kind == b"moov"


def _is_wav(head: bytes) -> bool:
    return head[8:12] == b"WAVE"


def _is_aiff(head: bytes) -> bool:
    return head[8:12] in (b"AIFF", b"AIFC")


def _is_flac(head: bytes) -> bool:
    # The block behind the first four bytes describes the stream and is 34 bytes long.
    return head[4] & 0x7F == 0 and head[5:8] == b"\0\0\x22"


def _is_au(head: bytes) -> bool:
    return 24 <= int.from_bytes(head[4:8]) < 4096 and 1 <= int.from_bytes(head[12:16]) < 28


def _is_matroska(head: bytes) -> bool:
    return b"webm" in head or b"matroska" in head


def _is_tagged_mp3(head: bytes) -> bool:
    return head[3] in (2, 3, 4) and head[4] < 0xFF and all(byte < 0x80 for byte in head[6:10])


_BEGINNINGS: dict[Container, tuple[re.Pattern[bytes], Callable[[bytes], bool]]] = {
    "wav": (re.compile(b"RIFF|RIFX|RF64"), _is_wav),
    "aiff": (re.compile(b"FORM"), _is_aiff),
    "flac": (re.compile(b"fLaC"), _is_flac),
    "caf": (re.compile(b"caff\0\1\0\0"), lambda head: True),
    "au": (re.compile(rb"\.snd"), _is_au),
    "amr": (re.compile(b"#!AMR"), lambda head: head[5:6] == b"\n" or head[5:9] == b"-WB\n"),
    "matroska": (re.compile(b"\x1a\x45\xdf\xa3"), _is_matroska),
    "mp3": (re.compile(b"ID3"), _is_tagged_mp3),
}
"""For each container the first bytes of a file (its mark), and a function that checks the bytes from the mark on. A
mark of four bytes occurs by chance about once in 4 GiB, so the mark alone is not enough."""


def _found(file: BinaryIO, mark: re.Pattern[bytes], is_beginning: Callable[[bytes], bool]) -> Iterator[int]:
    """Distances from the file's position at which `mark` occurs and a file begins.

    Memory does not grow with the file.
    """
    position, kept = 0, b""
    while chunk := file.read(_CHUNK_BYTES):
        data, base = kept + chunk, position - len(kept)
        position += len(chunk)
        for match in mark.finditer(data):
            at = match.start()
            if at <= len(data) - _LOOKAHEAD_BYTES and is_beginning(data[at : at + _LOOKAHEAD_BYTES]):
                yield base + at
        kept = data[-(_LOOKAHEAD_BYTES - 1) :]

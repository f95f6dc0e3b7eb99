"""Checks the header of a wav file against the sound in the file, in its three forms.

RIFF is the usual form. RIFX has the other byte order. RF64 is for files above 4 GiB: a chunk `ds64` has the lengths,
and the others say 0xFFFFFFFF. promised_length.py judges a length.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lipsync_server.errors import LipsyncError
from lipsync_server.media.formats.promised_length import amount, check_promise, is_placeholder, unnoticed_bytes
from lipsync_server.media.info import Warnings

_MAX_CHUNKS = 1000
_ALL_ONES = 0xFFFF_FFFF


@dataclass(frozen=True)
class _Chunk:
    """One chunk: its name, the offset of its content, and the content's length by the header."""

    kind: bytes
    start: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the next chunk. A chunk of odd length is followed by one byte more."""
        return self.start + self.length + (self.length & 1)


def check_wav(file: BinaryIO, size: int, *, longest_s: float, error: type[LipsyncError]) -> Warnings:
    """Warnings about a header with a wrong length. Raises `error` for a file that is cut off or without sound.

    longest_s: the longest recording that the server accepts; a header that gives more is a placeholder.
    """
    bytes_per_s, order = 0, _byte_order(file)
    for chunk in _chunks(file):
        if chunk.kind == b"fmt ":
            layout = file.read(16)
            bytes_per_s = struct.unpack(f"{order}I", layout[8:12])[0] if len(layout) == 16 else 0
        if chunk.kind == b"data":
            if is_placeholder(chunk.length):
                return ()
            present = size - chunk.start
            warnings = check_promise(chunk.length, present, bytes_per_s, longest_s=longest_s, error=error)
            left_over = _left_over_bytes(file, chunk.end, size, order)
            if not warnings and left_over > unnoticed_bytes(bytes_per_s):
                return (
                    f"The header ends the sound after {amount(chunk.length, bytes_per_s)}; {left_over:,} bytes behind"
                    " it were left out. If speech is missing at the end, export the recording again.",
                )
            return warnings
    raise error("The recording is a wav file without any sound data. Send the whole file again.")


def open_ended_header(file: BinaryIO) -> dict[int, bytes]:
    """The bytes to replace, by offset, so that a decoder reads an RF64 file without a length to its end.

    The file becomes a RIFF file of unknown length, which decoders read. Empty for all other files.
    """
    file.seek(0)
    if file.read(4) != b"RF64":
        return {}
    for chunk in _chunks(file):
        if chunk.kind == b"data" and is_placeholder(chunk.length):
            unknown = b"\xff\xff\xff\xff"
            return {0: b"RIFF", 4: unknown, 12: b"JUNK", chunk.start - 4: unknown}
    return {}


def _byte_order(file: BinaryIO) -> str:
    file.seek(0)
    return ">" if file.read(4) == b"RIFX" else "<"


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """The chunks in order; the file is then at the start of the chunk's content."""
    order, position, data_bytes = _byte_order(file), 12, _ALL_ONES
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack(f"{order}4sI", head)
        if kind == b"ds64":
            lengths = file.read(16)
            data_bytes = struct.unpack("<QQ", lengths)[1] if len(lengths) == 16 else _ALL_ONES
            file.seek(position + 8)
        if kind == b"data" and length == _ALL_ONES:
            length = data_bytes
        chunk = _Chunk(kind, position + 8, length)
        yield chunk
        position = chunk.end


def _left_over_bytes(file: BinaryIO, position: int, size: int, order: str) -> int:
    """Bytes from `position` on that no decoder reads: a second chunk of sound, and bytes that are no chunk.

    Chunks such as tags and cue points belong to the wav file.
    """
    more_sound = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode().isprintable():
            break
        length = struct.unpack(f"{order}I", head[4:])[0]
        if position + 8 + length > size:
            break
        more_sound += length if head[:4] == b"data" else 0
        position += 8 + length + (length & 1)
    return more_sound + max(0, size - position)

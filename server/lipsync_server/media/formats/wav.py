"""Checks the header of a wav file against the sound in the file.

A wav header gives the length of the sound behind it. A program that streams does not know that length and writes a
placeholder: 0, a number near 2 or 4 GiB, or a round number such as 2,000,000,000. Then the sound in the file is the
whole recording. A header with a plausible length that the file does not reach means that the file was cut off.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from lipsync_server.errors import LipsyncError
from lipsync_server.media.info import Warnings

_STREAMED_BYTES = 0x7FFF_0000
_MAX_CHUNKS = 1000
# Less missing or additional sound than this causes no warning: the difference cannot be heard.
_UNNOTICED_S = 0.05
_MIN_BYTES = 4096


def check_wav(file: BinaryIO, size: int, *, longest_s: float, error: type[LipsyncError]) -> Warnings:
    """Warnings about a header with a wrong length. Raises `error` for a file that is cut off or without sound.

    longest_s: the longest recording that the server accepts; a header that gives more is a placeholder.
    """
    if file.read(4) != b"RIFF":
        return ()  # RF64 and RIFX are rare enough to be left to the decoder
    bytes_per_s = 0
    for kind, start, length in _chunks(file):
        if kind == b"fmt ":
            layout = file.read(16)
            bytes_per_s = struct.unpack("<I", layout[8:12])[0] if len(layout) == 16 else 0
        if kind == b"data":
            unnoticed = max(_MIN_BYTES, round(bytes_per_s * _UNNOTICED_S))
            present = size - start
            if length == 0 or length >= _STREAMED_BYTES:
                return ()
            if length - present > unnoticed:
                promised, there = _amount(length, bytes_per_s), _amount(present, bytes_per_s)
                if bytes_per_s and length / bytes_per_s > longest_s:
                    return (f"The header promises {promised} of sound; the {there} that are in the file were used.",)
                raise error(
                    f"The recording's header promises {promised} of sound, but only {there} are in the file: it is cut"
                    " off or its header is wrong. Send the whole file again."
                )
            left_over = size - _end_of_chunks(file, start + length + (length & 1), size)
            if left_over > unnoticed:
                return (
                    f"The header ends the sound after {_amount(length, bytes_per_s)}; {left_over:,} bytes behind it"
                    " were left out. If speech is missing at the end, export the recording again.",
                )
            return ()
    raise error("The recording is a wav file without any sound data. Send the whole file again.")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and announced length of each chunk; the file is then at the start of the chunk's content."""
    position = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        yield kind, position + 8, length
        position += 8 + length + (length & 1)


def _end_of_chunks(file: BinaryIO, position: int, size: int) -> int:
    """The offset at which the chunks behind the sound (tags, cue points) end; later bytes are no part of the wav."""
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode().isprintable():
            return position
        end = position + 8 + struct.unpack("<I", head[4:])[0]
        if end > size:
            return position
        position = end + (end & 1)
    return position


def _amount(n_bytes: int, bytes_per_s: int) -> str:
    """An amount of sound in words: seconds, or bytes where the header gives no rate."""
    return f"{n_bytes / bytes_per_s:,.1f} s" if bytes_per_s else f"{n_bytes:,} bytes"

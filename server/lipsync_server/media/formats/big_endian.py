"""Checks the headers of AIFF, CAF and AU files, whose numbers are big-endian, against the sound in the file.

Each of these headers gives the length of the sound, as a wav header does. promised_length.py compares this length with
the file. Reads headers only.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from lipsync_server.errors import LipsyncError
from lipsync_server.media.formats.promised_length import check_promise, is_placeholder
from lipsync_server.media.info import Warnings

_MAX_CHUNKS = 1000
_CAF_CHUNKS = frozenset(
    (b"desc", b"data", b"pakt", b"chan", b"kuki", b"strg", b"info", b"free", b"mark", b"regn", b"umid", b"ovvw",
     b"edct", b"peak", b"inst", b"midi", b"uuid")
)  # fmt: skip
# Bytes for each sample in the encodings of AU: mu-law, 8, 16, 24 and 32 bits, float, double, A-law.
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def check_big_endian(file: BinaryIO, size: int, *, longest_s: float, error: type[LipsyncError]) -> Warnings:
    """Warnings about a header with a wrong length. Raises `error` for a file that is cut off.

    longest_s: the longest recording that the server accepts; a header that gives more is a placeholder.
    """
    file.seek(0)
    mark = file.read(4)
    found = {b"FORM": _aiff, b"caff": _caf, b".snd": _au}.get(mark, _au)(file)
    if found is None:
        return ()
    length, start, bytes_per_s = found
    if is_placeholder(length):
        return ()
    return check_promise(length, size - start, bytes_per_s, longest_s=longest_s, error=error)


def au_end(file: BinaryIO) -> int | None:
    """The offset behind the sound of an AU file, or None where its header does not give the length."""
    file.seek(4)
    found = _au(file)
    return None if found is None or is_placeholder(found[0]) else found[1] + found[0]


def caf_end(file: BinaryIO) -> int | None:
    """The offset behind the last chunk of a CAF file, or None where its header does not give the length."""
    end = None
    for kind, start, length in _chunks(file, 8, ">4sq"):
        if kind not in _CAF_CHUNKS:
            break
        if is_placeholder(length):
            return None
        end = start + length
    return end


_Promise = tuple[int, int, int] | None
"""Bytes of sound by the header, offset of the sound, bytes for a second (0 where not known); None without sound."""


def _aiff(file: BinaryIO) -> _Promise:
    """The promise of an AIFF header: the chunk SSND, with the rate from the chunk COMM before it."""
    bytes_per_s = 0
    for kind, start, length in _chunks(file, 12, ">4sI"):
        if kind == b"COMM":
            common = file.read(18)
            if len(common) == 18:
                channels, bits = struct.unpack(">H", common[:2])[0], struct.unpack(">H", common[6:8])[0]
                bytes_per_s = round(channels * bits / 8 * _extended(common[8:]))
        elif kind == b"SSND":
            # Eight bytes, an offset and a block size, stand before the samples.
            return (length if is_placeholder(length) else length - 8), start + 8, bytes_per_s
    return None


def _caf(file: BinaryIO) -> _Promise:
    """The promise of a CAF header: the chunk data, with the rate from the chunk desc before it."""
    bytes_per_s = 0
    for kind, start, length in _chunks(file, 8, ">4sq"):
        if kind == b"desc":
            description = file.read(24)
            if len(description) == 24:
                rate, packet_bytes, packet_frames = struct.unpack(">d8xII", description)
                bytes_per_s = round(rate * packet_bytes / packet_frames) if packet_frames and rate < 1e6 else 0
        elif kind == b"data":
            # An edit count of four bytes stands before the samples.
            return (length if is_placeholder(length) else length - 4), start + 4, bytes_per_s
    return None


def _au(file: BinaryIO) -> _Promise:
    """The promise of an AU header."""
    head = file.read(20)
    if len(head) < 20:
        return None
    start, length, encoding, rate, channels = struct.unpack(">5I", head)
    return length, start, _AU_BYTES.get(encoding, 0) * rate * channels


def _chunks(file: BinaryIO, position: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and length of each chunk's content; the file is then at the content."""
    n_head = struct.calcsize(layout)
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(n_head)
        if len(head) < n_head:
            return
        kind, length = struct.unpack(layout, head)
        yield kind, position + n_head, length
        if length < 0:
            return
        position += n_head + length + (length & 1 if layout == ">4sI" else 0)


def _extended(ten_bytes: bytes) -> float:
    """A number in the 80-bit format of AIFF: 15 bits of exponent, 64 of mantissa; 0.0 if it is no sample rate."""
    exponent, mantissa = struct.unpack(">HQ", ten_bytes)
    power = (exponent & 0x7FFF) - 16383 - 63
    return float(mantissa) * 2.0**power if power < 0 else 0.0

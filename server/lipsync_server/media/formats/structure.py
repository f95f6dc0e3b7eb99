"""Refuses files that are cut off, and files that refer to other files, before a demuxer reads them.

Each container gives its length in its own form; a file that is shorter was not sent completely. Reads headers only.
"""

import struct
from typing import BinaryIO

from lipsync_server.errors import InvalidAudio, LipsyncError, UnsupportedMedia
from lipsync_server.media.formats.big_endian import check_big_endian
from lipsync_server.media.formats.container import Box, Container, boxes, tag_bytes
from lipsync_server.media.formats.promised_length import is_placeholder
from lipsync_server.media.formats.wav import check_wav
from lipsync_server.media.info import Warnings

_HEAD_BYTES = 4096
_TAIL_BYTES = 128 * 1024
_MOV_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"}
_MAX_TRACKS = 64


def check_structure(
    file: BinaryIO, size: int, kind: Container, *, longest_s: float = 0.0, error: type[LipsyncError] = InvalidAudio
) -> Warnings:
    """Refuse a file that no demuxer should read; returns warnings about a header with a wrong length.

    Raises UnsupportedMedia for an MP4/MOV whose media lies outside the file, `error` for a file that is cut off.
    """
    file.seek(0)
    if kind == "wav":
        return check_wav(file, size, longest_s=longest_s, error=error)
    if kind in ("aiff", "caf", "au"):
        return check_big_endian(file, size, longest_s=longest_s, error=error)
    if kind == "mov":
        _check_mov(file, size, error)
    elif kind == "matroska":
        _check_matroska(file, size, error)
    elif kind == "ogg":
        _check_ogg(file, size, error)
    elif kind == "mp3":
        _check_mp3(file, size, error)
    return ()


def _cut_off(error: type[LipsyncError], missing: int) -> LipsyncError:
    """The error for a file that lacks `missing` bytes."""
    return error(f"The file is cut off: {missing:,} bytes are missing at its end. Send the whole file again.")


def _check_mov(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    """Check that every box of an MP4/MOV ends within the file and that its index is there."""
    found_moov = False
    for box in boxes(file, 0, size):
        if box.end > size:
            raise _cut_off(error, box.end - size)
        if box.kind == b"moov":
            found_moov = True
            n_tracks = sum(inner.kind == b"trak" for inner in boxes(file, box.start, box.end))
            if n_tracks > _MAX_TRACKS:
                raise error(f"The file has {n_tracks} tracks; at most {_MAX_TRACKS} are read. Export it as mp4 or wav.")
            _check_index(file, box, size, error, depth=0)
    if not found_moov:
        raise error("The file is cut off: its index (the moov box) is missing. Send the whole file again.")


def _check_index(file: BinaryIO, parent: Box, size: int, error: type[LipsyncError], depth: int) -> None:
    """Check an index and the boxes in it: no reference to another file, no more samples than the file has bytes."""
    for box in boxes(file, parent.start, parent.end):
        if box.kind in _MOV_PARENTS and depth < 6:
            _check_index(file, box, size, error, depth + 1)
        elif box.kind == b"stsz":
            file.seek(box.start + 8)
            n_samples = int.from_bytes(file.read(4))
            if n_samples > size:
                raise error(
                    f"The file's index claims {n_samples:,} samples, more than its {size:,} bytes can hold: it is"
                    " damaged. Export it again as mp4 or wav."
                )
        elif box.kind == b"cmov":
            raise UnsupportedMedia("The file has a compressed QuickTime index; export it again as a plain mp4 or wav.")
        elif box.kind in (b"rmra", b"rmda"):
            raise UnsupportedMedia("The file is a QuickTime reference movie: its sound lies in another file.")
        elif box.kind == b"dref":
            for entry in boxes(file, box.start + 8, box.end):
                file.seek(entry.start)
                flags = file.read(4)
                # Bit 0 is set where the media is in this file; without it the entry names another file or a URL.
                if len(flags) < 4 or not flags[3] & 1:
                    raise UnsupportedMedia(
                        "The file refers to sound or picture in another file or at a URL, which this server never"
                        " follows. Export it as one self-contained mp4 or wav."
                    )


def _ebml_number(data: bytes) -> tuple[int, int] | None:
    """(value, length in bytes) of a variable-length size in EBML (Matroska's encoding); value -1 means unknown."""
    if not data or not data[0]:
        return None
    length = 9 - data[0].bit_length()
    if len(data) < length:
        return None
    value = int.from_bytes(data[:length]) & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), length


def _check_matroska(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    """Check that the segment (the element with all media) ends within the file, if its size is given."""
    end = matroska_end(file)
    if end is not None and end > size:
        raise _cut_off(error, end - size)


def matroska_end(file: BinaryIO) -> int | None:
    """The offset behind the segment of a Matroska or WebM file, read from its start; None for an unknown size."""
    head = file.read(_HEAD_BYTES)
    header = _ebml_number(head[4:12])
    if header is None or header[0] < 0:
        return None
    at = 4 + header[1] + header[0]
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return None
    segment = _ebml_number(head[at + 4 : at + 12])
    # A recorder that streams (a browser's MediaRecorder) leaves the size unknown.
    return None if segment is None or segment[0] < 0 else at + 4 + segment[1] + segment[0]


def _check_ogg(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    """Check that the last page is complete."""
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return
    page = tail[at:]
    n_segments = page[26] if len(page) > 26 else 0
    wanted = 27 + n_segments + sum(page[27 : 27 + n_segments])
    if len(page) < wanted or len(page) < 27 + n_segments:
        raise _cut_off(error, max(1, wanted - len(page)))


def _check_mp3(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    """Check the length in bytes that an encoder's Xing or Info header gives."""
    start = tag_bytes(file.read(10))
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return
    flags = frame[at + 7]
    if flags & 3 == 3:
        n_bytes = struct.unpack(">I", frame[at + 12 : at + 16])[0]
        missing = 0 if is_placeholder(n_bytes) else n_bytes - (size - start)
        if missing > max(2048, n_bytes // 50):
            raise _cut_off(error, missing)

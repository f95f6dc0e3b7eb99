"""Read the progress and the codecs of a growing MP4 from its bytes.

media/mp4/fragments.py writes such a file. Imports no decoder, so that the server process can read it.
"""

from typing import BinaryIO

from lipsync_server.errors import LipsyncError

MARK_BYTES = 24
"""Size of the `free` box after each piece: its size and name, our word, and a number of frames."""
_WORD = b"lipsync\0"
_HEAD_BYTES = 64 * 1024


def mark_of(n_frames: int) -> bytes:
    """The box that says that the file is whole up to `n_frames` frames."""
    return _mark_head() + n_frames.to_bytes(8)


def n_frames_at(tail: bytes) -> int:
    """The frames of a stream whose last MARK_BYTES are `tail`; 0 where the stream does not end with a whole piece."""
    head = _mark_head()
    return int.from_bytes(tail[len(head) :]) if len(tail) == MARK_BYTES and tail.startswith(head) else 0


def codecs_of(head: bytes) -> str:
    """The codecs of a stream, from its first bytes, as RFC 6381 spells them: `avc1.64001f, mp4a.40.2`."""
    at = head.find(b"avcC")
    if at < 0 or len(head) < at + 8:
        raise LipsyncError("The stream does not begin with a picture track.")
    # ISO 14496-15: a version, then profile, compatibility and level, one byte each.
    return f"avc1.{head[at + 5 : at + 8].hex()}, mp4a.40.2"


def read_head(file: BinaryIO) -> bytes:
    """The first bytes of a stream, enough for `codecs_of`; leaves `file` at its beginning."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


def _mark_head() -> bytes:
    return MARK_BYTES.to_bytes(4) + b"free" + _WORD

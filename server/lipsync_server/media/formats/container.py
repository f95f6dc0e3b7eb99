"""Finds out the container of a file (wav, mp4, ...) from its bytes alone.

Knows the magic numbers (fixed first bytes) of the containers on the server's closed list, and the boxes of MP4. Knows
no codec and ignores the file's name. structure.py refuses files that are cut off; recognise.py names all other kinds.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

Container = Literal["wav", "flac", "ogg", "aiff", "caf", "au", "mp3", "adts", "mov", "matroska", "amr"]

DEMUXERS: dict[Container, str] = {
    "wav": "wav", "flac": "flac", "ogg": "ogg", "aiff": "aiff", "caf": "caf", "au": "au", "mp3": "mp3",
    "adts": "aac", "mov": "mov", "matroska": "matroska", "amr": "amr",
}  # fmt: skip
"""FFmpeg's name of the one demuxer that may read each container. FFmpeg never opens a container that is not here."""

AUDIO_KINDS = "wav, mp3, m4a, aac, ogg, opus, flac, webm, amr, mp4 or mov"
STRAY_BYTES = b"\0 \t\r\n\xef\xbb\xbf"
"""Bytes that stand before a file by mistake: zeros, and the blanks and byte order marks of scripts that print it."""
_HEAD_BYTES = 4096
_PICTURE_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"MiHB", b"MiHE", b"MiHA"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis", b"avio"), "AVIF"),
    **dict.fromkeys((b"crx ",), "CR3"),
    **dict.fromkeys((b"jp2 ", b"jpx ", b"jpm "), "JPEG 2000"),
    **dict.fromkeys((b"jxl ",), "JPEG XL"),
}
_MOV_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}


def sniff(path: Path) -> Container | None:
    """The container that the first bytes of `path` show, or None for one that is not on the closed list.

    Stray bytes and an ID3 tag may stand before the file, except before an MP4; parts.py leaves them out.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if kind := _kind_of(head):
            return kind
        stripped = head.lstrip(STRAY_BYTES)
        if size := tag_bytes(stripped):
            file.seek(len(head) - len(stripped) + size)
            return _kind_of(file.read(_HEAD_BYTES).lstrip(STRAY_BYTES)) or "mp3"
        kind = _kind_of(stripped)
        return None if kind == "mov" else kind


def tag_bytes(head: bytes) -> int:
    """The length of the ID3 tag that begins with `head`, 0 for no tag. A tag stands before mp3, aac, flac or wav."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    # The size without these ten bytes is four groups of seven bits.
    return 10 + ((head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | (head[9] & 127))


def _kind_of(head: bytes) -> Container | None:
    """The container whose magic number stands at the beginning of `head`, or None."""
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] in _MOV_FIRST_BOXES:
        return "mov"
    starts: dict[bytes, Container] = {
        b"fLaC": "flac", b"OggS": "ogg", b"caff": "caf", b".snd": "au", b"\x1a\x45\xdf\xa3": "matroska", b"#!AM": "amr",
    }  # fmt: skip
    if kind := starts.get(head[:4]):
        return kind
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if len(head) >= 4 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:
            return "adts"
        valid = head[1] & 0x18 != 0x08 and head[1] & 0x06 and head[2] >> 4 != 15 and head[2] & 0x0C != 0x0C
        if head[1] & 0xE0 == 0xE0 and valid:
            return "mp3"
    return None


def picture_brand(head: bytes) -> str | None:
    """The kind of picture that an ISO media file (HEIC, AVIF, Canon's CR3) holds by its ftyp box, or None.

    MP4 and MOV begin with the same box under other brands.
    """
    if head[4:8] != b"ftyp":
        return None
    if (brand := _PICTURE_BRANDS.get(head[8:12])) is not None:
        # "mif1" is a frame for any picture; the brands after it say which codec is in it.
        others = (_PICTURE_BRANDS.get(head[at : at + 4]) for at in range(16, min(_box_size(head), 64), 4))
        return next((other for other in others if other not in (None, "HEIF")), brand) if brand == "HEIF" else brand
    return None


def is_picture(path: Path) -> bool:
    """Whether the file begins as a picture in an ISO media file."""
    with path.open("rb") as file:
        return picture_brand(file.read(64)) is not None


def _box_size(head: bytes) -> int:
    """The size in bytes of the box with which `head` begins."""
    return int.from_bytes(head[:4])


def is_video(path: Path) -> bool:
    """Whether the file begins as a video container (MP4, MOV, MKV or WebM), and not as a picture in one."""
    with path.open("rb") as file:
        head = file.read(64)
    return picture_brand(head) is None and _kind_of(head) in ("mov", "matroska")


@dataclass(frozen=True)
class Box:
    """One box of an MP4/MOV file; `start` and `end` bound its payload. `end` may lie beyond the end of the file."""

    kind: bytes
    start: int
    end: int


def boxes(file: BinaryIO, start: int, end: int, *, limit: int = 10_000) -> Iterator[Box]:
    """The boxes between two offsets, in bytes; stops at the first bytes that are no box."""
    position = start
    for _ in range(limit):
        if position + 8 > end:
            return
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        header = 8
        if size == 1 and len(head) == 16:
            size, header = struct.unpack(">Q", head[8:])[0], 16
        elif size == 0:
            size = end - position
        if size < header:
            return
        yield Box(kind, position + header, position + size)
        position += size

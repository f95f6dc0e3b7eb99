"""What kind of file some bytes are, decided by their content alone.

Knows the magic numbers of the closed list of containers that the server reads, and enough of their box structure to
refuse a file that is cut off or that points at another file. Knows no codec, and never looks at a file's name.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lipsync_server.errors import InvalidAudio, LipsyncError, UnsupportedMedia

Container = Literal["wav", "flac", "ogg", "aiff", "caf", "au", "mp3", "adts", "mov", "matroska", "amr"]

DEMUXERS: dict[Container, str] = {
    "wav": "wav", "flac": "flac", "ogg": "ogg", "aiff": "aiff", "caf": "caf", "au": "au", "mp3": "mp3",
    "adts": "aac", "mov": "mov", "matroska": "matroska", "amr": "amr",
}  # fmt: skip
"""FFmpeg's name of the one demuxer that may read each container. Anything not here is never opened by FFmpeg."""

AUDIO_KINDS = "wav, mp3, m4a, aac, ogg, opus, flac, webm, amr, mp4 or mov"
_HEAD_BYTES = 4096
_TAIL_BYTES = 128 * 1024
_STREAMED_WAV = 0x7FFF_0000
_PICTURE_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"MiHB", b"MiHE", b"MiHA"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis", b"avio"), "AVIF"),
    **dict.fromkeys((b"crx ",), "CR3"),
    **dict.fromkeys((b"jp2 ", b"jpx ", b"jpm "), "JPEG 2000"),
    **dict.fromkeys((b"jxl ",), "JPEG XL"),
}
_MOV_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_MOV_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"dinf"}
_PLAYLIST_STARTS = (b"#extm3u", b"ffconcat", b"v=0", b"[playlist]", b"<?xml", b"<smil", b"<mpd", b"file ")


def sniff(path: Path) -> Container | None:
    """The container that the first bytes of `path` show, or None when it is none of the closed list."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        kind = _kind_of(head)
        if kind is None and head[:3] == b"ID3" and len(head) >= 10:
            # An ID3 tag may stand before mp3, aac or flac; its size is four groups of seven bits.
            size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | (head[9] & 127)
            file.seek(size + 10)
            return _kind_of(file.read(_HEAD_BYTES).lstrip(b"\0")) or "mp3"
        return kind or _kind_of(head.lstrip(b"\0"))


def _kind_of(head: bytes) -> Container | None:
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


def _box_size(head: bytes) -> int:
    return int.from_bytes(head[:4])


def is_video(path: Path) -> bool:
    """Whether the first bytes are those of a video container: MP4, MOV, MKV or WebM, and not of a picture in one."""
    with path.open("rb") as file:
        head = file.read(64)
    return picture_brand(head) is None and _kind_of(head) in ("mov", "matroska")


def describe_unknown(path: Path) -> str:
    """A few words on what an unreadable file seems to be, to complete "The file is ..."."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty"
    if start.startswith(_PLAYLIST_STARTS):
        return "a playlist or session description that points at other files, which this server never follows"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page"
    if head[:4] == b"%PDF":
        return "a PDF"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f\x1b" for byte in head):
        return "plain text"
    return "of a kind that this server does not read"


@dataclass(frozen=True)
class Box:
    """One box of an MP4/MOV file; `start` and `end` bound its payload. `end` may lie beyond the end of the file."""

    kind: bytes
    start: int
    end: int


def boxes(file: BinaryIO, start: int, end: int, *, limit: int = 10_000) -> Iterator[Box]:
    """The boxes between two offsets; stops at the first thing that is no box."""
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


def check_structure(path: Path, kind: Container, *, error: type[LipsyncError] = InvalidAudio) -> None:
    """Refuse what no demuxer should see: references to other files, and files whose end is missing.

    Raises UnsupportedMedia for an MP4/MOV whose media lies outside the file, `error` for one that is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if kind == "mov":
            _check_mov(file, size, error)
        elif kind == "matroska":
            _check_matroska(file, size, error)
        elif kind == "ogg":
            _check_ogg(file, size, error)
        elif kind == "wav":
            _check_wav(file, size, error)
        elif kind == "mp3":
            _check_mp3(file, size, error)


def _cut_off(error: type[LipsyncError], missing: int) -> LipsyncError:
    return error(f"The file is cut off: {missing:,} bytes are missing at its end. Send the whole file again.")


def _check_mov(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    found_moov = False
    for box in boxes(file, 0, size):
        if box.end > size:
            raise _cut_off(error, box.end - size)
        if box.kind == b"moov":
            found_moov = True
            _check_references(file, box, depth=0)
    if not found_moov:
        raise error("The file is cut off: its index (the moov box) is missing. Send the whole file again.")


def _check_references(file: BinaryIO, parent: Box, depth: int) -> None:
    for box in boxes(file, parent.start, parent.end):
        if box.kind in _MOV_PARENTS and depth < 6:
            _check_references(file, box, depth + 1)
        elif box.kind == b"cmov":
            raise UnsupportedMedia("The file has a compressed QuickTime index; export it again as a plain mp4 or wav.")
        elif box.kind in (b"rmra", b"rmda"):
            raise UnsupportedMedia("The file is a QuickTime reference movie: its sound lies in another file.")
        elif box.kind == b"dref":
            for entry in boxes(file, box.start + 8, box.end):
                file.seek(entry.start)
                flags = file.read(4)
                # Bit 0 says that the media is in this very file; anything else names another file or a URL.
                if len(flags) < 4 or not flags[3] & 1:
                    raise UnsupportedMedia(
                        "The file refers to sound or picture in another file or at a URL, which this server never"
                        " follows. Export it as one self-contained mp4 or wav."
                    )


def _ebml_number(data: bytes) -> tuple[int, int] | None:
    """(value, length in bytes) of an EBML variable-length size; value -1 means unknown."""
    if not data or not data[0]:
        return None
    length = 9 - data[0].bit_length()
    if len(data) < length:
        return None
    value = int.from_bytes(data[:length]) & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), length


def _check_matroska(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    head = file.read(_HEAD_BYTES)
    header = _ebml_number(head[4:12])
    if header is None or header[0] < 0:
        return
    at = 4 + header[1] + header[0]
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return
    segment = _ebml_number(head[at + 4 : at + 12])
    # A recorder that streams (a browser's MediaRecorder) leaves the size unknown; then there is nothing to check.
    if segment is not None and segment[0] >= 0:
        end = at + 4 + segment[1] + segment[0]
        if end > size:
            raise _cut_off(error, end - size)


def _check_ogg(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
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


def _check_wav(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    """A header that promises more sound than the file holds. A program that streams cannot know the length and writes
    0 or a number near 2 or 4 GiB instead; then what is there is the recording."""
    if file.read(4) != b"RIFF":
        return  # RF64 and RIFX are rare enough to be left to the decoder
    position, bytes_per_s = 12, 0
    for _ in range(1000):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        if kind == b"fmt ":
            layout = file.read(16)
            bytes_per_s = struct.unpack("<I", layout[8:12])[0] if len(layout) == 16 else 0
        if kind == b"data":
            present = size - position - 8
            missing = length - present
            if length >= _STREAMED_WAV or missing <= max(4096, bytes_per_s // 20):
                return
            promised = f"{length / bytes_per_s:,.1f} s" if bytes_per_s else f"{length:,} bytes"
            there = f"{present / bytes_per_s:,.1f} s" if bytes_per_s else f"{present:,} bytes"
            raise error(
                f"The recording's header promises {promised} of sound, but only {there} are in the file: it is cut off"
                " or its header is wrong. Send the whole file again."
            )
        position += 8 + length + (length & 1)
    raise error("The recording is a wav file without any sound data. Send the whole file again.")


def _check_mp3(file: BinaryIO, size: int, error: type[LipsyncError]) -> None:
    """An encoder's Xing or Info header tells how many bytes the whole recording has."""
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + ((head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | (head[9] & 127))
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return
    flags = frame[at + 7]
    if flags & 3 == 3:
        n_bytes = struct.unpack(">I", frame[at + 12 : at + 16])[0]
        missing = n_bytes - (size - start)
        if missing > max(2048, n_bytes // 50):
            raise _cut_off(error, missing)

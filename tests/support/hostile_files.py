"""Small files that cost a decoder gigabytes of memory, minutes of time, or Python's interpreter lock."""

import io
import struct
import zlib

import numpy as np
import soundfile
from PIL import Image


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full_box(kind: bytes, *parts: bytes) -> bytes:
    return _box(kind, bytes(4), *parts)


def mp4_with_many_samples(n_samples: int, *, n_tracks: int = 1, picture: bool = False) -> bytes:
    """An MP4 of a few hundred bytes whose sample table claims `n_samples` samples in each track."""
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    if picture:
        entry = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HHIIIH", 64, 64, 72 << 16, 72 << 16, 0, 1)
        entry = _box(b"mp4v", entry + bytes(32) + struct.pack(">Hh", 24, -1))
        handler, header = b"vide", _full_box(b"vmhd", bytes(8))
    else:
        entry = _box(b"mp4a", bytes(6) + struct.pack(">H", 1) + bytes(8) + struct.pack(">HHII", 1, 16, 0, 16_000 << 16))
        handler, header = b"soun", _full_box(b"smhd", bytes(4))
    table = _box(
        b"stbl",
        _full_box(b"stsd", struct.pack(">I", 1), entry),
        _full_box(b"stts", struct.pack(">III", 1, n_samples, 1)),
        _full_box(b"stsc", struct.pack(">IIII", 1, 1, n_samples, 1)),
        _full_box(b"stsz", struct.pack(">II", 1, n_samples)),
        _full_box(b"stco", struct.pack(">II", 1, 48)),
    )
    reference = _box(b"dinf", _full_box(b"dref", struct.pack(">I", 1), _box(b"url ", struct.pack(">I", 1))))
    tracks = b"".join(
        _box(
            b"trak",
            _full_box(b"tkhd", struct.pack(">IIIII", 0, 0, number, 0, n_samples), bytes(16), matrix, bytes(8)),
            _box(
                b"mdia",
                _full_box(b"mdhd", struct.pack(">IIIIHH", 0, 0, 16_000, n_samples, 0x55C4, 0)),
                _full_box(b"hdlr", bytes(4), handler, bytes(13)),
                _box(b"minf", header, reference, table),
            ),
        )
        for number in range(1, n_tracks + 1)
    )
    movie = _full_box(b"mvhd", struct.pack(">IIIIIH", 0, 0, 1000, 1000, 0x10000, 0x100), bytes(10), matrix, bytes(28))
    return _box(b"ftyp", b"isom", bytes(4), b"isom") + _box(b"moov", movie, tracks) + _box(b"mdat", bytes(64))


def jpeg_with_empty_scans(n_scans: int, side: int = 3000) -> bytes:
    """A progressive JPEG of one colour with a scan repeated; each repetition costs a pass over the picture."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    # A scan needs the Huffman table in front of it.
    table = whole.rindex(b"\xff\xc4", 0, last)
    return whole[:-2] + whole[table:-2] * n_scans + whole[-2:]


def one_colour(kind: str, side: int = 8000) -> bytes:
    """A picture of `side` x `side` equal pixels, which WebP and AVIF store in a few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def flac_of_silence(seconds: float, rate_hz: int = 96_000, channels: int = 8) -> bytes:
    """Silence is tiny in FLAC, and decoding it needs as much time as any sound."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate_hz, channels, format="FLAC", subtype="PCM_24") as sound:
        second = np.zeros((rate_hz, channels), np.int32)
        for _ in range(round(seconds)):
            sound.write(second)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black_png(width: int, height: int) -> bytes:
    """A PNG of black pixels, one bit each: 400 million of them take about 50 KB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")

"""Warns about bytes behind the end of a recording, which its decoder does not read.

A script that joins files of different formats makes such a recording: the decoder stops where the first format ends,
and the speech behind it would be missing without a word. wav.py has the same warning for wav files. Reads headers, and
searches the whole file only where the format does not state its length.
"""

import re
import struct
from collections.abc import Callable
from typing import BinaryIO

from lipsync_server.media.formats.big_endian import au_end, caf_end
from lipsync_server.media.formats.container import Container
from lipsync_server.media.formats.parts import first_match, ogg_end
from lipsync_server.media.formats.promised_length import is_placeholder, unnoticed_bytes
from lipsync_server.media.formats.structure import matroska_end
from lipsync_server.media.info import Warnings

# First bytes of the kinds of recordings, each long enough not to occur by chance.
_ANOTHER_FILE = re.compile(
    rb"RI(?:FF|FX)....WAVE|RF64....WAVE|FORM....AIF[FC]|OggS\0\x02|caff\0\x01\0\0|\.snd\0\0\0[\x18-\x40]"
    rb"|\0\0\0[\x10-\x40]ftyp|\x1aE\xdf\xa3[\x80-\x9f]B\x86|fLaC[\0\x80]\0\0\x22|ID3[\x02-\x04]\0",
    re.DOTALL,
)


def left_over(file: BinaryIO, size: int, container: Container) -> Warnings:
    """A warning when at least a few thousand bytes are behind the recording's end. file: one file, of `size` bytes."""
    end_of = _ENDS.get(container)
    file.seek(0)
    end = None if end_of is None else end_of(file)
    if end is None or size - end <= unnoticed_bytes(0):
        return ()
    return (
        f"{size - end:,} bytes behind the end of the recording were left out. If speech is missing at the end, join"
        " files of one format only.",
    )


def _aiff_end(file: BinaryIO) -> int | None:
    head = file.read(8)
    length = struct.unpack(">I", head[4:])[0] if len(head) == 8 else 0
    return None if is_placeholder(length) else 8 + length + (length & 1)


def _another_file(file: BinaryIO) -> int | None:
    """The offset at which a file of a known kind begins behind the first bytes, or None."""
    file.seek(1)
    distance = first_match(file, _ANOTHER_FILE)
    return None if distance is None else 1 + distance


def _matroska_end(file: BinaryIO) -> int | None:
    return matroska_end(file) or _another_file(file)


_ENDS: dict[Container, Callable[[BinaryIO], int | None]] = {
    "aiff": _aiff_end,
    "au": au_end,
    "caf": caf_end,
    "ogg": ogg_end,
    "flac": _another_file,
    "matroska": _matroska_end,
}
"""For each container a function that finds the end of the recording, or None where it is not known."""

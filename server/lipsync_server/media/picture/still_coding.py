"""Reads the declaration that a still picture's levels are HDR: the code points of ITU-T H.273, in PNG, HEIC and AVIF.

HDR is high dynamic range. PNG has the code points in the chunk `cICP`, HEIC and AVIF in a box `colr` of the kind
`nclx`. Pillow ignores both, and the picture would look grey and pale. Knows the places of the numbers. Does not decode
(hdr.py converts the levels).
"""

from dataclasses import dataclass
from typing import BinaryIO, Literal

# The properties of HEIC and AVIF, and the chunks of PNG before the pixels, are at the beginning.
_SEARCHED_BYTES = 1024 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"
_TRANSFERS: dict[int, Literal["pq", "hlg"]] = {16: "pq", 18: "hlg"}


@dataclass(frozen=True)
class HdrCoding:
    """The levels' curve, and the number of the primaries in H.273: 1 BT.709, 9 BT.2020, 11 and 12 P3."""

    curve: Literal["pq", "hlg"]
    primaries: int


def hdr_coding(file: BinaryIO) -> HdrCoding | None:
    """The HDR coding that the picture in `file` declares, or None for an ordinary picture."""
    head = file.read(_SEARCHED_BYTES)
    if head.startswith(_PNG):
        return _of_png(head)
    if head[4:8] == b"ftyp" and (at := head.find(b"colrnclx")) >= 0:
        return _of(int.from_bytes(head[at + 8 : at + 10]), int.from_bytes(head[at + 10 : at + 12]))
    return None


def _of_png(head: bytes) -> HdrCoding | None:
    at = len(_PNG)
    while at + 12 <= len(head) and head[at + 4 : at + 8] != b"IDAT":
        if head[at + 4 : at + 8] == b"cICP":
            return _of(head[at + 8], head[at + 9])
        at += 12 + int.from_bytes(head[at : at + 4])
    return None


def _of(primaries: int, transfer: int) -> HdrCoding | None:
    curve = _TRANSFERS.get(transfer)
    return None if curve is None else HdrCoding(curve, primaries)

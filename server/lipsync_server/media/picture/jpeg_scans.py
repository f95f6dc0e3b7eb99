"""Counts the scans of a JPEG before it is decoded. For each scan the decoder passes over the whole picture.

Progressive encoders make about 10 scans. A hostile file has thousands, and costs minutes; libjpeg-turbo's authors
advise a limit for files from strangers, too. Markers are found as libjpeg finds them: bytes that belong to no segment,
and fill bytes before a marker, are passed over.
"""

import re

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# A marker is 0xFF, more of them as fill, and a byte that is neither 0 nor 0xFF.
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Without a length: TEM, the restart markers (D0 to D7), and the start of an image.
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def count_scans(jpeg: bytes, enough: int) -> int:
    """Scans up to the end of the first image, at most `enough`. Phones append videos and pictures behind it."""
    n_scans, at = 0, 2
    while n_scans < enough and (marker := _MARKER.search(jpeg, at)) is not None:
        kind, at = marker[1][0], marker.end()
        if kind == _END_OF_IMAGE:
            break
        if kind not in _WITHOUT_LENGTH:
            n_scans += kind == _START_OF_SCAN
            at += int.from_bytes(jpeg[at : at + 2])
    return n_scans

"""Compares the length of the sound that a header promises with the bytes that are in the file.

A program that streams does not know the length when it writes the header, and writes a placeholder: 0, a number near 2
or 4 GiB, or a round number such as 2,000,000,000. Then the sound in the file is the whole recording. A header with a
plausible length that the file does not reach means that the file was cut off. Knows no file format.
"""

from lipsync_server.errors import LipsyncError
from lipsync_server.media.info import Warnings

STREAMED_BYTES = 0x7FFF_0000
"""The least length that only a placeholder has: just below 2 GiB."""
# Less missing or additional sound than this causes no warning: the difference cannot be heard.
_UNNOTICED_S = 0.05
_MIN_BYTES = 4096


def is_placeholder(length: int) -> bool:
    """Whether a header's length in bytes was written by a program that did not know it. -1 stands for unknown."""
    return length <= 0 or length >= STREAMED_BYTES


def unnoticed_bytes(bytes_per_s: int) -> int:
    """The largest difference in bytes without a warning. bytes_per_s: 0 if it is not known."""
    return max(_MIN_BYTES, round(bytes_per_s * _UNNOTICED_S))


def amount(n_bytes: int, bytes_per_s: int) -> str:
    """A length for a person: in seconds, or in bytes if the rate is not known."""
    return f"{n_bytes / bytes_per_s:,.1f} s" if bytes_per_s else f"{n_bytes:,} bytes"


def check_promise(
    length: int, present: int, bytes_per_s: int, *, longest_s: float, error: type[LipsyncError]
) -> Warnings:
    """A warning about a length that was too large to be meant. Raises `error` for a file that is cut off.

    length: bytes of sound by the header, no placeholder. present: bytes in the file behind the header. bytes_per_s: 0
    if it is not known. longest_s: the longest recording that the server accepts; more is a placeholder.
    """
    if length - present <= unnoticed_bytes(bytes_per_s):
        return ()
    promised, there = amount(length, bytes_per_s), amount(present, bytes_per_s)
    if bytes_per_s and length / bytes_per_s > longest_s:
        return (f"The header promises {promised} of sound; the {there} that are in the file were used.",)
    raise error(
        f"The recording's header promises {promised} of sound, but only {there} are in the file: it is cut off or its"
        " header is wrong. Send the whole file again."
    )

"""Cut a text into pieces that are spoken one after the other. Markup, emoji and control characters are left out.

A text is spoken in pieces, so that a long one shows progress and can be cancelled between them.
"""

import re
from collections.abc import Iterator
from typing import Final

from lipsync_server.media.captions.script import without_markup, without_symbols

_PIECE_CHARACTERS: Final = 600
_BREAKS: Final = (re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?…।])\s+|(?<=[。！？])"), re.compile(r"\s+"))


def pieces_of(text: str) -> list[str]:
    """`text` without markup, in pieces of about 40 s of speech: paragraphs, else sentences, else words."""
    cleaned = _speakable(without_markup(text))
    return [piece for piece in _packed(cleaned, 0) if any(c.isalnum() for c in piece)]


def _speakable(text: str) -> str:
    """`text` without emoji and control characters; line breaks and tabs stay blanks."""
    return "\n".join(without_symbols(line.replace("\t", " ")) for line in text.splitlines())


def _packed(text: str, level: int) -> Iterator[str]:
    """`text` in pieces of at most _PIECE_CHARACTERS, broken at _BREAKS[level], and at finer breaks where needed."""
    if len(text) <= _PIECE_CHARACTERS:
        yield text
        return
    if level == len(_BREAKS):
        for start in range(0, len(text), _PIECE_CHARACTERS):
            yield text[start : start + _PIECE_CHARACTERS]
        return
    piece = ""
    for part in _BREAKS[level].split(text):
        joint = "\n\n" if level == 0 else " "
        if piece and len(piece) + len(part) > _PIECE_CHARACTERS:
            yield from _packed(piece, level + 1)
            piece = ""
        piece = f"{piece}{joint}{part}" if piece else part
    if piece:
        yield from _packed(piece, level + 1)

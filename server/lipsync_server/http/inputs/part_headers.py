"""Makes the headers of a form's parts readable for aiohttp, which refuses control characters in them.

A file name may have any character, and some programs send it as it is. The form would then be refused as malformed.
"""

import re
from typing import cast

from aiohttp import MultipartReader, StreamReader, web

# All but the tab, and the end of the line.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")


class _Lines:
    """A stream whose lines have a question mark in place of each control character. Files are read as they are."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> object:
        return getattr(self._content, name)

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        """The next line. aiohttp reads headers and boundaries by lines, and the content of files in another way."""
        line = await self._content.readline(max_line_length=max_line_length)
        return _CONTROLS.sub(b"?", line)


def multipart_of(request: web.Request) -> MultipartReader:
    """The form in the body of `request`. Raises ValueError without a boundary, as aiohttp's own reader does."""
    return MultipartReader(request.headers, cast(StreamReader, _Lines(request.content)))

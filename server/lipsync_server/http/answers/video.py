"""Answers with a finished video: with range requests, a file name, and a call once all bytes have been sent.

Knows aiohttp's file answers. Does not know jobs.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from lipsync_server.http.answers.file_names import attachment


class VideoResponse(web.FileResponse):
    """Answers the file at `path`, of `size_bytes`, as attachment `name`.

    on_sent: called once the last byte of the answer was written to the socket, with the number of bytes and whether
    they were the whole file.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        size_bytes: int,
        *,
        headers: dict[str, str] | None = None,
        on_sent: Callable[[int, bool], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            path,
            headers={
                "Content-Type": "video/mp4",
                "Content-Disposition": attachment(name),
                "Cache-Control": "private, no-transform",
                **(headers or {}),
            },
        )
        self._on_sent = on_sent
        self._size_bytes = size_bytes

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        writer = await super().prepare(request)
        if self._on_sent is not None and request.method != "HEAD" and self.status in (200, 206):
            n_bytes = self.content_length or 0
            await self._on_sent(n_bytes, n_bytes == self._size_bytes)
        return writer

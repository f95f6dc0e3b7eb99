"""A stand-in for the model hub over real HTTP, with the answers that huggingface_hub needs to download files."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from served import served


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Line:
    """A line of limited rate that every answer shares. bytes_per_s: of all bodies together."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def send(self, response: web.StreamResponse, body: bytes, chunk: int = 65_536) -> None:
        """Write `body`, each piece when the line has room for it."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(body), chunk):
            piece = body[start : start + chunk]
            begin = max(loop.time(), self._free_at)
            self._free_at = begin + len(piece) / self._bytes_per_s
            await asyncio.sleep(max(0.0, self._free_at - loop.time()))
            await response.write(piece)


class Hub:
    """Answers HEAD and ranged GET as the hub does, for files by path, whatever the repository.

    cuts: the numbers of bytes after which the next answers break off. No body is sent while `open` is clear, and none
    of a path in `held` before its event is set.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cuts: list[int] = []
        self.status = 200
        self.token = ""
        self.ranges: list[str | None] = []
        self.revisions: set[str] = set()
        self.url = ""
        self.line: Line | None = None
        self.held: dict[str, asyncio.Event] = {}
        self.open = asyncio.Event()
        self.open.set()

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        if self.status != 200:
            return web.json_response({"error": "no"}, status=self.status)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, headers={"X-Error-Code": "GatedRepo"})
        data = self.files.get(request.match_info["path"])
        if data is None:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{digest(data)}"',
            "X-Repo-Commit": "c" * 40,
            "X-Linked-Etag": f'"{digest(data)}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(data))})
        self.revisions.add(request.match_info["revision"])
        await self.open.wait()
        if held := self.held.get(request.match_info["path"]):
            await held.wait()
        start = request.http_range.start or 0
        self.ranges.append(request.headers.get("Range"))
        body = data[start:]
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(body)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        await response.prepare(request)
        if self.cuts:
            await response.write(body[: self.cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        if self.line is not None:
            await self.line.send(response, body)
        else:
            await response.write(body)
        return response


@asynccontextmanager
async def serve_hub(files: dict[str, bytes]) -> AsyncIterator[Hub]:
    """A hub on a free port of loopback; its address is `url`."""
    hub = Hub(files)
    app = web.Application()
    app.router.add_route("*", "/{owner}/{name}/resolve/{revision}/{path:.+}", hub.resolve)
    async with served(app) as port:
        hub.url = f"http://127.0.0.1:{port}"
        try:
            yield hub
        finally:
            for event in (hub.open, *hub.held.values()):
                event.set()

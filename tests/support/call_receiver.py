"""A receiver of the server's calls (callbacks and webhooks), and the check of a call's signature."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from served import served


@dataclass(frozen=True)
class Call:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Whether Lipsync-Signature is `t=SECONDS,v1=HMAC-SHA256(secret, SECONDS.body)` in hexadecimal."""
        found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", self.headers["Lipsync-Signature"])
        if found is None:
            return False
        expected = hmac.new(secret.encode(), f"{found[1]}.".encode() + self.body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(found[2], expected)


class CallReceiver:
    """Stores every POST by its path. It answers with `statuses` and `texts` in turn and repeats the last status."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.texts: list[str] = []
        self.root = ""
        self._calls: dict[str, asyncio.Queue[Call]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        self._queue(request.path).put_nowait(Call(dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        text = self.texts.pop(0) if self.texts else ""
        return web.Response(status=status, text=text, headers={"Location": "/elsewhere"} if 300 <= status < 400 else {})

    async def next(self, path: str) -> Call:
        """Wait for the next call at `path`."""
        async with asyncio.timeout(20):
            return await self._queue(path).get()

    def waiting(self, path: str) -> list[Call]:
        """Remove and return the calls at `path` that no test has read."""
        queue = self._queue(path)
        return [queue.get_nowait() for _ in range(queue.qsize())]

    @property
    def was_called(self) -> bool:
        return bool(self._calls)

    def _queue(self, path: str) -> asyncio.Queue[Call]:
        return self._calls.setdefault(path, asyncio.Queue())


@asynccontextmanager
async def call_receiver() -> AsyncIterator[CallReceiver]:
    """A receiver on a free port of loopback; its address is `root`."""
    receiver = CallReceiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    async with served(app) as port:
        receiver.root = f"http://127.0.0.1:{port}"
        yield receiver

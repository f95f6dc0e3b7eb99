"""A stand-in for a provider's API over real HTTP: answers by script and records the requests."""

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from served import served


@dataclass(frozen=True)
class Asked:
    """A request that the stand-in got. body: the parsed JSON; None without a body."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    key: str


@dataclass
class Provider:
    """`script` maps "METHOD /path" to answers: (status, JSON or text); the last of them is given again and again."""

    url: str = ""
    key: str = "a-secret-key"
    script: dict[str, deque[Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def answers(self, call: str, *answers: tuple[int, object]) -> None:
        self.script[call] = deque(answers)

    def calls(self, method: str, path: str) -> list[Asked]:
        return [each for each in self.asked if (each.method, each.path) == (method, path)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = Asked(request.method, request.path, dict(request.query), json.loads(text) if text else None, key)
        self.asked.append(asked)
        if key != self.key:
            return web.json_response({"success": False, "error": "auth_error", "msg": "Invalid key"}, status=401)
        answers = self.script.get(f"{asked.method} {asked.path}")
        if not answers:
            return web.json_response({"title": "Not Found", "status": 404, "detail": "no such route"}, status=404)
        status, body = answers.popleft() if len(answers) > 1 else answers[0]
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status)


@asynccontextmanager
async def serve_provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)
    async with served(app) as port:
        provider.url = f"http://127.0.0.1:{port}"
        yield provider

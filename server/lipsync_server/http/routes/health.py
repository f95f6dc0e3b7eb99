"""Liveness and readiness, for people, containers and load balancers. Public; on the health port as well.

These routes read memory only, so that they answer while the disk, the database and the workers are busy.
"""

from dataclasses import asdict

from aiohttp import web

from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.routing import Answer, Route, answer


async def healthz(request: web.Request) -> web.StreamResponse:
    """The server runs."""
    return answer(schemas.Health())


async def readyz(request: web.Request) -> web.StreamResponse:
    """Whether the server can render now: status 200 or 503."""
    state = request.app[keys.READINESS]()
    return answer(
        schemas.Readiness.model_validate(asdict(state)),
        status=200 if state.ready else 503,
    )


async def ping(request: web.Request) -> web.StreamResponse:
    """The health check of RunPod's load balancer: 200 means healthy, 204 still starting."""
    return web.Response(status=200 if request.app[keys.READINESS]().ready else 204)


ROUTES = (
    Route(
        "GET",
        "/healthz",
        healthz,
        "Liveness: does the server answer",
        answers={200: Answer("It is.", schemas.Health)},
        tag="server",
        public=True,
    ),
    Route(
        "GET",
        "/readyz",
        readyz,
        "Readiness: would a job start now",
        answers={
            200: Answer("Ready.", schemas.Readiness),
            503: Answer("Weights are downloading or an engine is loading; the answer says how far.", schemas.Readiness),
        },
        tag="server",
        public=True,
    ),
    Route(
        "GET",
        "/ping",
        ping,
        "Readiness without a body",
        answers={200: Answer("Ready.", empty=True), 204: Answer("Still loading.", empty=True)},
        tag="server",
        public=True,
    ),
)

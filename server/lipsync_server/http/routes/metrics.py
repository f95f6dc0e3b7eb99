"""GET /metrics for Prometheus."""

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from lipsync_server.http import keys
from lipsync_server.http.routing import Answer, Route


async def metrics(request: web.Request) -> web.StreamResponse:
    """The server's figures in Prometheus' text format."""
    app = request.app
    text = await app[keys.METRICS].text(app[keys.QUEUE])
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES = (
    Route(
        "GET",
        "/metrics",
        metrics,
        "Figures for Prometheus",
        answers={200: Answer("Prometheus text format.", media_type="text/plain")},
        tag="server",
    ),
)

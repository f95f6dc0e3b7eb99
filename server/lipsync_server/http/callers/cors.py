"""Lets the web pages of the origins in LIPSYNC_CORS_ORIGINS call the API. Without that setting it adds nothing."""

from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_EXPOSED = "Location, Retry-After, Content-Disposition, Lipsync-Job-Id, Idempotency-Replayed, X-Request-Id"
_ALLOWED = "Authorization, Content-Type, Idempotency-Key, Lipsync-Keep, Prefer, Range, X-Request-Id"


def cors_middleware(origins: Sequence[str]) -> Middleware:
    """Answer preflight requests of pages from `origins`, and mark their other requests for `add_cors_headers`."""
    allowed = frozenset(origins)

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None or not ({origin, "*"} & allowed):
            return await handler(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            # A preflight request carries no token, so it is answered before the token is checked.
            return web.Response(
                status=204,
                headers={
                    **_common(origin),
                    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
                    "Access-Control-Allow-Headers": _ALLOWED,
                    "Access-Control-Max-Age": "600",
                },
            )
        request[CORS_HEADERS] = _common(origin)
        return await handler(request)

    return cors


CORS_HEADERS: web.RequestKey[dict[str, str]] = web.RequestKey("cors_headers", dict[str, str])


def _common(origin: str) -> dict[str, str]:
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED, "Vary": "Origin"}


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers in the signal on_response_prepare: a middleware would be too late for a streamed answer."""
    response.headers.update(request.get(CORS_HEADERS) or {})

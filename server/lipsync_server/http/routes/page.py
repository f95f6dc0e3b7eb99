"""The web page at `/` and its files, served unchanged from page/. No build step, no template, no other host.

The page's files are served at page/NAME, so that index.html at `/` names them by relative references and works behind
a path prefix.
"""

from pathlib import Path

from aiohttp import web

from lipsync_server.errors import NotFound
from lipsync_server.http.routing import Parameter, Route, answers_of_file
from lipsync_server.paths import SAMPLES_DIR

PAGE_DIR = Path(__file__).parent.parent / "page"
# A sample picture and recording to try the server with.
_SAMPLES = (SAMPLES_DIR / "portrait.jpg", SAMPLES_DIR / "speech.wav")
_FILES = {path.name: path for path in (*sorted(PAGE_DIR.iterdir()), *_SAMPLES) if path.is_file()}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def index(request: web.Request) -> web.StreamResponse:
    """The web page."""
    return web.FileResponse(_FILES["index.html"], headers=SECURITY_HEADERS)


async def page_file(request: web.Request) -> web.StreamResponse:
    """A file of the web page."""
    path = _FILES.get(request.match_info["name"])
    if path is None:
        raise NotFound("The page has no such file.")
    return web.FileResponse(path, headers=SECURITY_HEADERS)


_NAME = Parameter("name", "path", "A file of the page.", {"type": "string"}, required=True)

ROUTES = (
    Route(
        "GET",
        "/",
        index,
        "The web page",
        answers=answers_of_file("HTML.", "text/html"),
        tag="page",
        public=True,
    ),
    Route(
        "GET",
        "/page/{name}",
        page_file,
        "A file of the web page",
        answers=answers_of_file("The file.", "*/*"),
        problems=(404,),
        parameters=(_NAME,),
        tag="page",
        public=True,
    ),
)

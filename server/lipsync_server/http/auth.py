"""Who may call: bearer tokens, and on a server without tokens only this machine's own programs.

Knows tokens and headers. Which routes are public is said in the route table; everything else, unknown addresses
included, needs a token.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import SecretStr

from lipsync_server.errors import Forbidden, LipsyncError, Unauthorized
from lipsync_server.jobs.files import kept_secret
from lipsync_server.settings import Settings

CALLER: web.RequestKey[str] = web.RequestKey("caller", str)
_OPEN_CALLER = "local"


class Tokens:
    """The accepted tokens, kept as digests, compared in constant time."""

    def __init__(self, tokens: Sequence[SecretStr]) -> None:
        self._named: list[tuple[str, bytes]] = []
        for number, secret in enumerate(tokens, start=1):
            name, colon, token = secret.get_secret_value().rpartition(":")
            if not token:
                raise LipsyncError("LIPSYNC_TOKENS has an empty token; write `token` or `name:token`, with commas.")
            self._named.append((name if colon else f"token-{number}", _digest(token)))

    def __bool__(self) -> bool:
        return bool(self._named)

    def name_of(self, token: str) -> str | None:
        """The name of `token`, None when it is not accepted. Looks at all of them, whichever matches."""
        given, found = _digest(token), None
        for name, digest in self._named:
            if hmac.compare_digest(given, digest):
                found = name
        return found


def auth_middleware(tokens: Tokens, settings: Settings, is_public: Callable[[web.Request], bool]) -> Middleware:
    """Refuse every request without a token, but for the public routes."""
    allowed_hosts = {urlsplit(settings.public_url).hostname} - {None}

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_public(request):
            request[CALLER] = ""
        elif tokens:
            request[CALLER] = _bearer(request, tokens)
        else:
            _check_local(request, allowed_hosts, settings.cors_origins)
            request[CALLER] = _OPEN_CALLER
        return await handler(request)

    return authenticate


def _bearer(request: web.Request, tokens: Tokens) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("This server needs a token. Send it as header `Authorization: Bearer TOKEN`.")
    name = tokens.name_of(token.strip())
    if name is None:
        raise Unauthorized("The token is not one of this server's. Compare it with LIPSYNC_TOKENS on the server.")
    return name


def _check_local(request: web.Request, allowed_hosts: set[str | None], cors_origins: Sequence[str]) -> None:
    """A server without tokens trusts this machine's programs, not web pages that someone here happens to visit.

    A foreign page reaches loopback by a simple form post (its Origin gives it away) or by a host name that it points
    to 127.0.0.1 (then the Host header has that name).
    """
    host = urlsplit(f"//{request.host}").hostname
    if not is_loopback(host or "") and host not in allowed_hosts:
        raise Unauthorized(
            f"This server has no token and answers only to its own machine, not under the name {host}. "
            "Set LIPSYNC_TOKENS on the server and send `Authorization: Bearer TOKEN`."
        )
    origin = request.headers.get("Origin")
    if origin is not None and origin not in cors_origins and urlsplit(origin).netloc != request.host:
        raise Forbidden(
            f"Web pages of {origin} may not call this server. Add the origin to LIPSYNC_CORS_ORIGINS if they should."
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def needs_token(settings: Settings) -> bool:
    """Whether others than this machine can reach the server."""
    return not is_loopback(settings.host) or bool(settings.tunnel)


def first_token(data_dir: Path) -> tuple[str, bool]:
    """The token kept in the data folder; True when it was made just now."""
    return kept_secret(data_dir / "token", lambda: secrets.token_urlsafe(32))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

"""Decides who may call: holders of a bearer token, and on a server without tokens only programs on this machine.

The route table marks the public routes; every other address, unknown ones included, needs a token. Knows tokens and
headers; does not know what a route does.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import SecretStr

from lipsync_server.errors import Forbidden, LipsyncError, Unauthorized
from lipsync_server.http.callers.addresses import split_or_none
from lipsync_server.jobs.files import kept_secret
from lipsync_server.jobs.model import Job
from lipsync_server.settings import Settings
from lipsync_server.validation import show

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
# Callers whose name the server chooses: callers on its own machine, and holders of a token without a name.
_RESERVED = re.compile(r"local|token-\d+")


@dataclass(frozen=True)
class Caller:
    """Who sent a request. is_owner: may see every job; other callers see only the jobs made under their own name.

    token_id: the same for every request with the same token, and useless for guessing it; "" without a token.
    """

    name: str
    is_owner: bool
    token_id: str = ""

    def sees(self, job: Job) -> bool:
        """Whether this caller may read and change `job`."""
        return self.is_owner or job.spec.owner == self.name


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
_LOCAL = Caller("local", is_owner=True)
_NOBODY = Caller("", is_owner=False)


class Tokens:
    """The accepted tokens. Only their digests are kept, and digests are compared in constant time.

    `alice:TOKEN` is the token of a caller named alice, who sees her own jobs only. `TOKEN` is the owner's.
    """

    def __init__(self, tokens: Sequence[SecretStr]) -> None:
        self._callers: list[tuple[Caller, bytes]] = []
        for number, secret in enumerate(tokens, start=1):
            name, colon, token = secret.get_secret_value().rpartition(":")
            if not token:
                raise LipsyncError("LIPSYNC_TOKENS has an empty token; write `token` or `name:token`, with commas.")
            if colon and (not _NAME.fullmatch(name) or _RESERVED.fullmatch(name)):
                raise LipsyncError(
                    f"LIPSYNC_TOKENS names a token {show(name)}; a name has 1 to 64 letters, digits, dots, dashes or "
                    "underscores, and is neither `local` nor like `token-1`."
                )
            digest = _digest(token)
            # A digest of the digest: a reader of the database cannot compare guesses with the one in memory.
            token_id = hashlib.sha256(b"token id" + digest).hexdigest()[:32]
            caller = Caller(name if colon else f"token-{number}", is_owner=not colon, token_id=token_id)
            self._callers.append((caller, digest))

    def __bool__(self) -> bool:
        return bool(self._callers)

    @property
    def ids(self) -> frozenset[str]:
        """The token_id of each accepted token; "" stands for callers without one on a server without tokens."""
        return frozenset(caller.token_id for caller, _ in self._callers) or frozenset(("",))

    def caller_of(self, token: str) -> Caller | None:
        """The caller that `token` belongs to, or None. Compares with every token, so that timing reveals nothing."""
        given, found = _digest(token), None
        for caller, digest in self._callers:
            if hmac.compare_digest(given, digest):
                found = caller
        return found


def auth_middleware(tokens: Tokens, settings: Settings, is_public: Callable[[web.Request], bool]) -> Middleware:
    """Refuse every request without an accepted token, except on public routes."""
    public = split_or_none(settings.public_url)
    allowed_hosts = {public.hostname} - {None} if public is not None else set()

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_public(request):
            request[CALLER] = _NOBODY
        elif tokens:
            request[CALLER] = _bearer(request, tokens)
        else:
            _check_local(request, allowed_hosts, settings.cors_origins)
            request[CALLER] = _LOCAL
        return await handler(request)

    return authenticate


def _bearer(request: web.Request, tokens: Tokens) -> Caller:
    """The caller whose token the request carries. Raises Unauthorized without an accepted token."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("This server needs a token. Send it as header `Authorization: Bearer TOKEN`.")
    caller = tokens.caller_of(token.strip())
    if caller is None:
        raise Unauthorized("The token is not one of this server's. Compare it with LIPSYNC_TOKENS on the server.")
    return caller


def _check_local(request: web.Request, allowed_hosts: set[str | None], cors_origins: Sequence[str]) -> None:
    """Refuse a request that a foreign web page made: a server without tokens trusts only programs on this machine.

    A foreign page in a local browser reaches loopback in two ways: by a plain form post, which carries the page's
    Origin header, or by a host name that resolves to 127.0.0.1, which then stands in the Host header.
    """
    parts = split_or_none(f"//{request.host}")
    host = (parts.hostname if parts is not None else None) or ""
    if not is_loopback(host) and (not host or host not in allowed_hosts):
        raise Unauthorized(
            f"This server has no token and answers only to its own machine, not under the name {show(request.host)}. "
            "Set LIPSYNC_TOKENS on the server and send `Authorization: Bearer TOKEN`."
        )
    origin = request.headers.get("Origin")
    if origin is None or origin in cors_origins:
        return
    parts = split_or_none(origin)
    if parts is None or parts.netloc != request.host:
        raise Forbidden(
            f"Web pages of {show(origin)} may not call this server. Add the origin to LIPSYNC_CORS_ORIGINS if they "
            "should."
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
    """Whether other machines can reach the server, so that it needs a token."""
    return not is_loopback(settings.host) or bool(settings.tunnel)


def first_token(data_dir: Path) -> tuple[str, bool]:
    """The token kept in the data folder, and whether this call created it."""
    return kept_secret(data_dir / "token", lambda: secrets.token_urlsafe(32))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

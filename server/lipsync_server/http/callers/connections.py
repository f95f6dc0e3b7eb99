"""The server's connections: their number, their idle time, and the answers to requests that are not HTTP.

A connection that sends no complete request is closed after IDLE_S. One address may have MAX_IDLE_PER_ADDRESS such
connections, and the server as many as its file descriptors allow. One more closes the oldest idle connection, so that
an honest caller is never locked out. If every connection is busy, a new one is answered 503. A request that cannot be
parsed is answered with a problem document. No part of it is logged or sent back, because a malformed header may contain
a token. Knows aiohttp's protocol class; does not know routes.
"""

import asyncio
import ipaddress
import logging
import resource
import time
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from lipsync_server.http.answers.problem import plain_problem
from lipsync_server.http.answers.schemas import Problem

log = logging.getLogger(__name__)

IDLE_S = 30.0
MAX_IDLE_PER_ADDRESS = 100
_WANTED_FILES = 65_536
# Files that are not connections: the database, uploads, videos, pipes to workers and decoders.
_OTHER_FILES = 256
_MOST_CONNECTIONS = 8_192


def raise_file_limit() -> int:
    """Raise this process's limit on open files as far as the system allows; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            log.warning("the limit of %d open files could not be raised: %s", soft, error)
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft


class Connections:
    """Every open connection of a server, and which of them are idle."""

    def __init__(self, *, most: int, most_idle_per_address: int = MAX_IDLE_PER_ADDRESS) -> None:
        self._most, self._most_idle = most, most_idle_per_address
        self._open: set[Connection] = set()

    def let_in(self, new: "Connection") -> bool:
        """Accept a new connection, closing the oldest idle one when there are too many; False when it is refused."""
        idle = [each for each in self._open if not each.is_busy and each.address == new.address]
        if len(idle) >= self._most_idle:
            self._close_oldest(idle)
        if len(self._open) >= self._most:
            idle = [each for each in self._open if not each.is_busy]
            if not idle:
                return False
            self._close_oldest(idle)
        self._open.add(new)
        return True

    def forget(self, gone: "Connection") -> None:
        """Remove a closed connection."""
        self._open.discard(gone)

    def _close_oldest(self, idle: "list[Connection]") -> None:
        oldest = min(idle, key=lambda each: each.idle_since)
        self._open.discard(oldest)
        oldest.force_close()


class Connection(RequestHandler):
    """One connection. A request that has been parsed makes it busy until its answer is sent."""

    __slots__ = ("_connections", "address", "idle_since", "is_busy")

    def __init__(self, server: web.Server, connections: Connections, idle_s: float) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), keepalive_timeout=idle_s)
        self._connections = connections
        self.address = ""
        self.idle_since = time.monotonic()
        self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.address = _network_of(transport.get_extra_info("peername"))
        super().connection_made(transport)
        if not self._connections.let_in(self):
            assert isinstance(transport, asyncio.WriteTransport)
            transport.write(_OVERLOADED)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.forget(self)
        super().connection_lost(exc)

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, started: float | None) -> None:
        # aiohttp calls this once the answer is sent. problem_middleware writes the log line.
        self.is_busy, self.idle_since = False, time.monotonic()

    def log_exception(self, *words: Any, **options: Any) -> None:
        """Log an error of aiohttp outside a handler. A body that its sender broke off is no error of the server."""
        if isinstance(options.get("exc_info"), web.RequestPayloadError):
            log.info("the rest of a request's body could not be read (%s)", options["exc_info"])
            return
        super().log_exception(*words, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be parsed, or whose handler raised an error nobody caught."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("The connection failed while the answer was being sent.")
        if status >= 500:
            log.error("a request failed outside of its handler", exc_info=exc)
        else:
            log.info("a request from %s could not be parsed (%s)", request.remote, type(exc).__name__)
        answer = plain_problem(_MALFORMED if status < 500 else _FAILED)
        answer.force_close()
        return answer


async def listen(
    runner: web.AppRunner, host: str, port: int, connections: Connections, *, idle_s: float = IDLE_S
) -> asyncio.Server:
    """Serve the set-up `runner` at an address. Close the returned listener before the runner is cleaned up."""
    server = runner.server
    assert server is not None

    def make() -> Connection:
        return Connection(server, connections, idle_s)

    return await asyncio.get_running_loop().create_server(make, host, port, backlog=512)


def most_connections(n_files: int) -> int:
    """The number of connections that a process with a limit of `n_files` open files may keep."""
    return max(64, min(_MOST_CONNECTIONS, n_files - _OTHER_FILES))


def _network_of(peer: object) -> str:
    """The key by which a caller's connections are counted. An IPv6 caller usually owns a /64: it counts as one."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


_MALFORMED = Problem(
    title="The request is malformed",
    status=400,
    detail="The request is not well-formed HTTP/1.1: look for stray characters in its first line and its headers (a "
    "token that was pasted with a line break, for example), and for https:// where http:// is served.",
    code="bad_request",
)
_FAILED = Problem(
    title="Something went wrong on the server",
    status=500,
    detail="Something unexpected went wrong; the server's log has the details.",
    code="internal",
)
_BUSY = Problem(
    title="The server is overloaded",
    status=503,
    detail="Every connection that this server can keep is in use. Try again in a few seconds.",
    code="overloaded",
)
_BODY = _BUSY.model_dump_json(exclude_none=True).encode()
_OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)

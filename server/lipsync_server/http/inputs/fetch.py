"""Fetches inputs from URLs and posts callbacks, and never connects to an address that is not public.

Without this check a caller could read this machine's private network through the server (server-side request forgery).
The check runs where a socket is made for one concrete address: after DNS, for every redirect and every retry, for host
names and literal addresses alike, so that a DNS answer that changes between check and use does not help an attacker.
Knows aiohttp's client. Does not know what the fetched bytes are.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from lipsync_server.errors import FetchFailed, InvalidInput, TooLarge
from lipsync_server.http.inputs.sink import FileSink, Taken

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Allow = Callable[[Address], bool]

_MAX_REDIRECTS = 5
_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=30)
_POST_TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=10)
# n8n answers 200 with this text to every request until its webhooks are there; nobody has taken the callback then.
_STARTING = b"n8n is starting up"
_BEGINNING_BYTES = 256
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether `address` belongs to the open internet.

    False for private, loopback, link-local, carrier-grade NAT, multicast and reserved addresses, and for IPv6
    addresses that embed such an IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if wrapped is None and address.teredo is not None:
            wrapped = address.teredo[1]
        if wrapped is None and address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address.is_site_local or int(address) < 2**32:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class BlockedAddress(OSError):
    """A host name resolved to an address that must not be reached."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"{address} is not a public address")


class Fetcher:
    """One client session for all outgoing requests of this server.

    allow_private: the setting LIPSYNC_ALLOW_PRIVATE_URLS. allow, resolver: used by tests.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        user_agent: str,
        allow: Allow = is_public,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._allow: Allow = (lambda address: True) if allow_private else allow
        self._user_agent = user_agent
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Fetcher":
        connector = aiohttp.TCPConnector(
            resolver=self._resolver or aiohttp.ThreadedResolver(),
            use_dns_cache=False,
            socket_factory=self._socket,
            limit=64,
            # Connections are not kept alive: a reused one would bypass the socket factory, and so the check.
            force_close=True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for one resolved address. Raises BlockedAddress for a forbidden one, before it connects."""
        family, kind, protocol, _, target = info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise BlockedAddress(str(target[0]))
        address = ipaddress.ip_address(str(target[0]).partition("%")[0])
        if not self._allow(address):
            raise BlockedAddress(str(address))
        return socket.socket(family, kind, protocol)

    async def check(self, url: str, field: str) -> None:
        """Raise InvalidInput when `url` resolves to a forbidden address now. A name that does not resolve passes."""
        parsed = URL(url)
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                parsed.host or "", parsed.port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            return
        for info in infos:
            if not self._allow(ipaddress.ip_address(str(info[4][0]).partition("%")[0])):
                raise InvalidInput(
                    f"{field} leads to {info[4][0]}, which is not a public address. "
                    "Set LIPSYNC_ALLOW_PRIVATE_URLS=true on the server if it should go there.",
                    field=field,
                )

    async def download(self, url: str, path: Path, *, field: str, max_bytes: int) -> Taken:
        """Stream the file at `url` to `path`. Raises FetchFailed or TooLarge, which name the field."""
        assert self._session is not None
        shown = _shown(url)
        try:
            async with self._session.get(
                url,
                max_redirects=_MAX_REDIRECTS,
                timeout=_FETCH_TIMEOUT,
                headers={"Accept-Encoding": "identity"},
            ) as response:
                if response.status != 200:
                    raise FetchFailed(f"{shown} answered {response.status} instead of the file.", field=field)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise FetchFailed(f"{shown} answered with a compressed body that was not asked for.", field=field)
                if (response.content_length or 0) > max_bytes:
                    raise _too_large(shown, max_bytes, field)
                async with FileSink(path, field, max_bytes) as sink:
                    async for chunk in response.content.iter_any():
                        await sink.write(chunk)
                return Taken(field, path, _name(response.url), sink.n_bytes, sink.sha256)
        except TooLarge:
            raise _too_large(shown, max_bytes, field) from None
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(shown, error.os_error, field) from error
        except aiohttp.TooManyRedirects as error:
            raise FetchFailed(f"{shown} redirects more than {_MAX_REDIRECTS} times.", field=field) from error
        except TimeoutError as error:
            raise FetchFailed(f"{shown} did not answer in time.", field=field) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise FetchFailed(f"{shown} could not be fetched: {error}.", field=field) from error

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """Post a callback; returns the HTTP status. Raises FetchFailed when there was no answer."""
        assert self._session is not None
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False, timeout=_POST_TIMEOUT
            ) as response:
                if response.ok and _STARTING in await response.content.read(_BEGINNING_BYTES):
                    return 503
                return response.status
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(_shown(url), error.os_error, "callback_url") from error
        except TimeoutError as error:
            raise FetchFailed(f"{_shown(url)} did not answer in time.") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise FetchFailed(f"{_shown(url)} could not be called: {error}.") from error


def _unreachable(shown: str, error: OSError, field: str) -> FetchFailed:
    """The error for an address to which no connection was made. shown: the address without secrets."""
    if error.errno == errno.EACCES:
        return FetchFailed(
            f"{shown} leads to an address that is not public ({error.strerror}). "
            "Set LIPSYNC_ALLOW_PRIVATE_URLS=true on the server if it should go there.",
            field=field,
        )
    return FetchFailed(f"{shown} could not be reached: {error.strerror or error}.", field=field)


def _too_large(shown: str, max_bytes: int, field: str) -> TooLarge:
    return TooLarge(f"The file behind {shown} is larger than the limit of {max_bytes / 2**20:.0f} MiB.", field=field)


def _shown(url: str) -> str:
    """`url` for messages: without password and query, which may hold secrets."""
    parsed = URL(url)
    return str(parsed.with_user(None).with_query(None).with_fragment(None))[:200]


def _name(url: URL) -> str:
    """The file name at the end of an address."""
    return unquote(url.name)[:200]

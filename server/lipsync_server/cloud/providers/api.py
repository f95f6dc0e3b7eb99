"""Calls one provider's HTTP API: with a bearer key, retries, and errors as sentences that never contain the key.

The adapters (vast.py, runpod.py, tensordock.py) share it. Knows aiohttp. Does not know the providers' routes.
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import aiohttp
from pydantic import JsonValue

from lipsync_server.cloud.machine import says_no_capacity
from lipsync_server.errors import LipsyncError

log = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
_LONGEST_RETRY_AFTER_S = 60.0


class ProviderError(LipsyncError):
    """A provider of rented machines refused or did not answer."""

    code, status, title = "provider", 502, "The provider refused the request"
    http_status = 0
    """The provider's HTTP status; 0 when the provider did not answer."""


class WrongKey(ProviderError):
    """The provider refused the key, or the key lacks a permission."""

    code: ClassVar[str] = "provider_key"


class NoCapacity(ProviderError):
    """The offer is gone, or the provider has no machine of this kind now."""

    code: ClassVar[str] = "no_capacity"


@contextmanager
def no_capacity_as_such(advice: str, *, first: str = "") -> Iterator[None]:
    """Turn a provider's refusal for lack of machines into NoCapacity.

    The message is `first`, the provider's own message, and `advice`.
    """
    try:
        yield
    except ProviderError as error:
        if says_no_capacity(error.detail):
            raise NoCapacity(f"{first} {error.detail} {advice}".strip()) from error
        raise


class Api:
    """Calls to `base_url` with `key`. Messages mention `name` and `key_variable`."""

    def __init__(
        self,
        name: str,
        base_url: str,
        key: str,
        key_variable: str,
        session: aiohttp.ClientSession,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self.name = name
        self._base_url, self._key, self._key_variable = base_url.rstrip("/"), key, key_variable
        self._session, self._pauses_s = session, pauses_s

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, JsonValue] | None = None,
        params: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> dict[str, Any]:
        """The JSON object of the answer, {} for an empty one.

        A call is repeated after 429 (with or without Retry-After). After 5xx or a broken connection it is repeated
        unless it is a POST that is not marked `idempotent`, because a second POST might rent a second machine.
        Raises WrongKey or ProviderError with the provider's own message.
        """
        harmless = method != "POST" if idempotent is None else idempotent
        for pause_s in (*self._pauses_s, None):
            try:
                status, retry_after_s, text = await self._once(method, path, body, params)
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = f"{self.name} could not be reached: {error or type(error).__name__}."
                status, retry_after_s = 0, None
            else:
                if status < 400:
                    return self._parsed(text)
                reason = f"{self.name} answered {status} to {method} {path}: {_words(text)}"
            # A lost answer does not prove that no machine was created; a repeated POST would rent a second one.
            again = status == 429 or (harmless and (status == 0 or status >= 500))
            if not again or pause_s is None:
                raise self._refused(status, reason)
            log.info("%s; trying again", reason)
            await asyncio.sleep(pause_s if retry_after_s is None else min(retry_after_s, _LONGEST_RETRY_AFTER_S))
        raise AssertionError

    async def _once(
        self, method: str, path: str, body: Mapping[str, JsonValue] | None, params: Mapping[str, str] | None
    ) -> tuple[int, float | None, str]:
        """One request. Returns the status, the seconds in Retry-After or None, and the body."""
        async with self._session.request(
            method,
            self._base_url + path,
            json=body,
            params=params,
            headers={"Authorization": f"Bearer {self._key}", "Accept": "application/json"},
            timeout=_TIMEOUT,
            allow_redirects=False,
        ) as response:
            header = response.headers.get("Retry-After", "")
            return response.status, float(header) if header.isdigit() else None, await response.text(errors="replace")

    def _refused(self, status: int, reason: str) -> ProviderError:
        """The error for a refused request. status: 0 if the provider did not answer."""
        if status in (401, 403):
            return WrongKey(f"{reason} Check the key in {self._key_variable} and its permissions.")
        error = ProviderError(reason)
        error.http_status = status
        return error

    def _parsed(self, text: str) -> dict[str, Any]:
        """The JSON object in `text`. A list becomes {"items": list}. Raises ProviderError."""
        if not text.strip():
            return {}
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ProviderError(f"{self.name} answered with text that is not JSON: {text[:200]}") from error
        if not isinstance(answer, dict):
            return {"items": answer}
        if answer.get("success") is False:
            raise ProviderError(f"{self.name} refused: {_words(text)}")
        return answer


def _words(text: str) -> str:
    """The message in an error body: RFC 9457 detail, Vast's `msg`, an `error` or `message`, else the body's start."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if isinstance(body, dict):
        messages = [str(body[name]) for name in ("title", "detail", "msg", "message", "error") if body.get(name)]
        errors = body.get("errors")
        messages += [str(each) for each in errors] if isinstance(errors, list) else []
        if messages:
            return ". ".join(messages)[:500].rstrip(".") + "."
    return text.strip()[:300] or "nothing."

"""Answers errors as RFC 9457 problem documents, gives every answer a request id, logs one line per request.

Knows the exception family and aiohttp's own HTTP errors. No other module builds an error answer.
"""

import logging
import math
import re
import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol, runtime_checkable

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from lipsync_server.errors import LipsyncError
from lipsync_server.http.answers.schemas import JOB_FIELDS, Problem
from lipsync_server.http.logs import REQUEST_ID
from lipsync_server.jobs.model import Failure
from lipsync_server.validation import invalid

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SENTENCES = {
    404: "There is nothing at this address. GET /openapi.json lists the addresses.",
    405: "This address does not know the method {method}; it knows {allow}.",
    413: "The body of the request is larger than this address allows.",
}


@runtime_checkable
class MayBeIdle(Protocol):
    """A connection that is closed for being idle unless it is marked busy (connections.py)."""

    is_busy: bool


class JobEnded(Exception):
    """The job that a request waited for failed or was cancelled; the job's error becomes the answer."""

    def __init__(self, job_id: str, failure: Failure, location: str) -> None:
        super().__init__(failure.detail)
        self.job_id = job_id
        self.failure = failure
        self.location = location


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Assign the request id, turn errors into problem documents, write the log line."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _CLIENT_ID.fullmatch(given) else secrets.token_hex(8)
    request[_ID] = request_id
    if isinstance(request.protocol, MayBeIdle):
        request.protocol.is_busy = True
    token = REQUEST_ID.set(request_id)
    began = time.monotonic()
    response: web.StreamResponse | None = None
    try:
        response = await _answer(request, handler)
        return response
    finally:
        status = response.status if response is not None else 499
        quiet = request.path in ("/healthz", "/readyz", "/ping", "/metrics")
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d",
            request.method,
            request.path,
            status,
            extra={
                "method": request.method,
                "path": request.path,
                "status": status,
                "seconds": round(time.monotonic() - began, 4),
                "remote": request.remote,
            },
        )
        REQUEST_ID.reset(token)


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Add the header in the signal on_response_prepare: a middleware would be too late for a streamed answer."""
    response.headers["X-Request-Id"] = request.get(_ID) or ""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer, or the problem document of the error that it raised."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_http(error, request)
    except LipsyncError as error:
        return from_error(error)
    except ValidationError as error:
        return from_error(invalid(error, owner="the request", known=JOB_FIELDS))
    except JobEnded as error:
        failure = error.failure
        return _document(
            Problem.model_validate(
                {
                    "title": failure.title,
                    "status": failure.status,
                    "detail": failure.detail,
                    "code": failure.code,
                    "job_id": error.job_id,
                }
            ),
            {"Location": error.location, "Lipsync-Job-Id": error.job_id},
        )
    except ConnectionError:
        raise
    except Exception:  # a fault of ours: the log has the stack trace, the caller gets a sentence
        log.exception("unexpected error")
        return from_error(
            LipsyncError("Something unexpected went wrong; the server's log has it under this request's id.")
        )


def from_error(error: LipsyncError) -> web.Response:
    """The problem document of an error, with Retry-After and WWW-Authenticate where the error asks for them."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="lipsync"'
    problem = Problem(
        title=error.title, status=error.status, detail=error.public_detail, code=error.code, field=error.field
    )
    return _document(problem, headers)


def _from_http(error: web.HTTPException, request: web.Request) -> web.Response:
    """The problem document of an error of aiohttp, such as an address or a method that does not exist."""
    phrase = HTTPStatus(error.status).phrase
    sentence = _SENTENCES.get(error.status, f"{phrase}.")
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    problem = Problem(
        title=phrase,
        status=error.status,
        detail=sentence.format(method=request.method, allow=headers.get("Allow", "others")),
        code=phrase.lower().replace(" ", "_").replace("-", "_"),
    )
    return _document(problem, headers)


def _document(problem: Problem, headers: Mapping[str, str]) -> web.Response:
    """The response for `problem`, with the id of the current request."""
    return plain_problem(problem.model_copy(update={"request_id": REQUEST_ID.get()}), headers)


def plain_problem(problem: Problem, headers: Mapping[str, str] | None = None) -> web.Response:
    """The aiohttp response that carries a problem document."""
    # A sentence may quote bytes of the request that are no text. Half of a surrogate pair cannot be written as UTF-8.
    quoted = {"detail": problem.detail, "field": problem.field}
    problem = problem.model_copy(
        update={key: text and text.encode("utf-8", "replace").decode() for key, text in quoted.items()}
    )
    return web.Response(
        text=problem.model_dump_json(exclude_none=True),
        status=problem.status,
        headers=headers,
        content_type=PROBLEM_JSON,
    )

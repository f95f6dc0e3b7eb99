"""The rows of the route table: app.py serves them and openapi.py documents the same rows.

Knows types only. A handler stands beside its row, so an address cannot be served without being described.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Answer:
    """One answer of a route: a model as JSON, another media type, or no body. headers: name -> description."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = "application/json"
    empty: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def answers_of_file(whole: str, media_type: str, *, headers: Mapping[str, str] | None = None) -> dict[int, Answer]:
    """The answers of a route that sends a file with ranges and conditions. whole: the description of the file."""
    return {
        200: Answer(whole, media_type=media_type, headers=headers or {}),
        206: Answer("The requested part of the file.", media_type=media_type),
        304: Answer("The caller's copy is current.", empty=True),
        412: Answer("If-Match names another version of the file.", empty=True),
        416: Answer("The file has no such part.", empty=True),
    }


@dataclass(frozen=True)
class Parameter:
    """A query or header parameter, or the id in the path."""

    name: str
    place: str
    description: str
    schema: Mapping[str, object]
    required: bool = False


@dataclass(frozen=True)
class Route:
    """One method of one path.

    problems: HTTP statuses of its problem documents, in addition to 401, 500 and 503, which every route may answer.
    forms: the accepted bodies, media type -> JSON schema or model. public: needs no token.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    problems: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    forms: Mapping[str, type[BaseModel] | Mapping[str, object]] = field(default_factory=dict)
    description: str = ""
    tag: str = "jobs"
    public: bool = False


def answer(model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """The JSON response with the fields of `model`."""
    return web.Response(text=model.model_dump_json(), status=status, headers=headers, content_type="application/json")


JOB_ID = Parameter(
    "job_id", "path", "The job's id.", {"type": "string", "minLength": 1, "maxLength": 64}, required=True
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "Send the same key again after a broken connection: the job that the first request made is answered, and none is "
    "made twice.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)

"""Generates the OpenAPI 3.1 document from the route table and the pydantic models, so that no fact is written twice.

Knows routing.py and schemas.py. Does not know handlers: app.py passes the routes.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.api_docs.docs_page import docs_page
from lipsync_server.http.callers.addresses import split_or_none
from lipsync_server.http.routing import Answer, Route
from lipsync_server.version import __version__

Json = dict[str, object]
_REF = "#/components/schemas/{model}"
_EVERYWHERE = (401, 403, 500, 503)
_WEBHOOK = {
    "post": {
        "summary": "A job has ended",
        "description": "Posted to `callback_url` and webhooks. Header `Lipsync-Signature: t=<unix seconds>,v1=<hex>`: "
        'hex is the HMAC-SHA256 of `"<t>." + body`. The key is that of the webhook; the callback of one job has the '
        "key from LIPSYNC_WEBHOOK_SECRET or data/webhook_secret. Refuse an old `t`, and a job that you have had.",
        "requestBody": {
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Callback")}}},
            "required": True,
        },
        "responses": {"200": {"description": "Any 2xx ends the delivery; everything else is tried again."}},
    }
}


def job_form() -> Json:
    """The schema of a job's multipart form: files, or URLs in their place, and the options as fields."""
    options = schemas.JobOptions.model_json_schema(ref_template=_REF)
    properties = dict(options["properties"])
    properties["options"] = {"type": "string", "contentMediaType": "application/json", "description": "A JSON object."}
    properties["face_box"] = {"type": "string", "description": "The face to animate: left,top,right,bottom in pixels."}
    for name, title in (("image", "Picture"), ("audio", "Recording"), ("second_audio", "Second person's recording")):
        properties[name] = {"type": "string", "format": "binary", "description": f"{title}, as a file."}
        properties[f"{name}_url"] = {"type": "string", "format": "uri", "description": f"{title}, in place of {name}."}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "allOf": [
            {"anyOf": [{"required": ["image"]}, {"required": ["image_url"]}]},
            {"anyOf": [{"required": ["audio"]}, {"required": ["audio_url"]}, {"required": ["text"]}]},
        ],
    }


def document(routes: Sequence[Route]) -> Json:
    """The whole HTTP interface as an OpenAPI 3.1 document."""
    models = _models(routes)
    keys, definitions = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    names = {model: str(keys[model, "serialization"]["$ref"]).rsplit("/", 1)[1] for model in models}
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lipsync",
            "version": __version__,
            "description": "Send a picture and a voice recording; receive an MP4 of that person speaking.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "security": [{"token": []}],
        "paths": paths,
        "webhooks": {"jobEnded": _WEBHOOK},
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(routes: Sequence[Route]) -> list[type[BaseModel]]:
    """Every pydantic model that a route accepts or answers, each once."""
    found: dict[type[BaseModel], None] = {schemas.Problem: None, schemas.Callback: None}
    for route in routes:
        for each in (*route.answers.values(), *route.forms.values()):
            model = each.model if isinstance(each, Answer) else each
            if isinstance(model, type):
                found[model] = None
    return list(found)


def _operation(route: Route, names: Mapping[type[BaseModel], str]) -> Json:
    operation: Json = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {
            **{str(status): _response(each, names) for status, each in route.answers.items()},
            **{str(status): _problem(names) for status in _problems(route)},
        },
    }
    if route.description:
        operation["description"] = route.description
    if route.parameters:
        operation["parameters"] = [
            {
                "name": each.name,
                "in": each.place,
                "description": each.description,
                "required": each.required,
                "schema": dict(each.schema),
            }
            for each in route.parameters
        ]
    if route.forms:
        content = {kind: {"schema": _schema(form, names)} for kind, form in route.forms.items()}
        operation["requestBody"] = {"required": True, "content": content}
    if route.public:
        operation["security"] = []
    return operation


def _problems(route: Route) -> list[int]:
    """The statuses of the problem documents with which the route may answer, ascending."""
    everywhere = (500,) if route.public else _EVERYWHERE
    return sorted({*everywhere, *route.problems} - set(route.answers))


def _schema(form: type[BaseModel] | Mapping[str, object], names: Mapping[type[BaseModel], str]) -> Json:
    if isinstance(form, type):
        return {"$ref": _REF.format(model=names[form])}
    return dict(form)


def _response(each: Answer, names: Mapping[type[BaseModel], str]) -> Json:
    response: Json = {"description": each.description}
    if each.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in each.headers.items()
        }
    if each.model is not None:
        response["content"] = {each.media_type: {"schema": {"$ref": _REF.format(model=names[each.model])}}}
    elif not each.empty:
        response["content"] = {each.media_type: {}}
    return response


def _problem(names: Mapping[type[BaseModel], str]) -> Json:
    reference = {"$ref": _REF.format(model=names[schemas.Problem])}
    return {
        "description": "The fault and its remedy (RFC 9457).",
        "content": {"application/problem+json": {"schema": reference}},
    }


def _address_of(request: web.Request) -> str:
    """The address under which the request reached this server, without a final slash."""
    if public := request.app[keys.ADDRESS].url:
        return public.rstrip("/")
    parts = split_or_none(f"//{request.host}")
    is_plain = parts is not None and parts.hostname and re.fullmatch(r"[\w.:\[\]-]+", request.host, re.ASCII)
    return f"{request.scheme}://{request.host if is_plain else 'localhost:5000'}"


def make_routes(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes of the OpenAPI document and of the page at /docs, which describe `routes` and themselves."""

    @functools.cache
    def contract() -> Json:
        return document((*routes, *own))

    @functools.cache
    def as_json() -> str:
        return json.dumps(contract())

    async def openapi_json(request: web.Request) -> web.StreamResponse:
        return web.Response(text=as_json(), content_type="application/json")

    async def docs(request: web.Request) -> web.StreamResponse:
        offer = await request.app[keys.PLANNER].offer()
        text = docs_page(contract(), offer.engines, _address_of(request))
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    own = (
        Route(
            "GET",
            "/openapi.json",
            openapi_json,
            "This document",
            answers={200: Answer("OpenAPI 3.1.", media_type="application/json")},
            tag="server",
            public=True,
        ),
        Route(
            "GET",
            "/docs",
            docs,
            "This document, to read",
            answers={200: Answer("HTML.", media_type="text/html")},
            tag="server",
            public=True,
        ),
    )
    return own

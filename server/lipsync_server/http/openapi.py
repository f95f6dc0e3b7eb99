"""OpenAPI 3.1 from the route table and the pydantic models, and a page that shows it. Nothing is written twice.

Knows routing.py and schemas.py. Does not know handlers: app.py gives the routes.
"""

import functools
import html
import json
from collections.abc import Mapping, Sequence

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lipsync_server import __version__
from lipsync_server.http import schemas
from lipsync_server.http.routing import Answer, Route

Json = dict[str, object]
_REF = "#/components/schemas/{model}"
_EVERYWHERE = (401, 403, 500)
_WEBHOOK = {
    "post": {
        "summary": "A job has ended",
        "description": "Posted to `callback_url`. Header `Lipsync-Signature: t=<unix seconds>,v1=<hex>`, where hex is "
        'the HMAC-SHA256 of `"<t>." + body` with the key from LIPSYNC_WEBHOOK_SECRET or data/webhook_secret.',
        "requestBody": {
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Callback")}}},
            "required": True,
        },
        "responses": {"200": {"description": "Any 2xx ends the delivery; everything else is tried again."}},
    }
}


def job_form() -> Json:
    """The multipart form of a job: files, or URLs in their place, and the options as fields."""
    options = schemas.JobOptions.model_json_schema(ref_template=_REF)
    properties = dict(options["properties"])
    properties["options"] = {"type": "string", "contentMediaType": "application/json", "description": "A JSON object."}
    properties["face_box"] = {"type": "string", "description": "left,top,right,bottom in pixels."}
    for name, what in (("image", "Picture"), ("audio", "Recording"), ("second_audio", "Second person's recording")):
        properties[name] = {"type": "string", "format": "binary", "description": f"{what}, as a file."}
        properties[f"{name}_url"] = {"type": "string", "format": "uri", "description": f"{what}, in place of {name}."}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "allOf": [{"anyOf": [{"required": [name]}, {"required": [f"{name}_url"]}]} for name in ("image", "audio")],
    }


def document(routes: Sequence[Route]) -> Json:
    """The whole contract as an OpenAPI 3.1 document."""
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
            "description": "A picture and a voice recording in, an MP4 of that person saying it out.",
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
        "description": "What was wrong and what to do (RFC 9457).",
        "content": {"application/problem+json": {"schema": reference}},
    }


def docs_page(contract: Json) -> str:
    """The contract as plain HTML: no script, nothing from another host."""
    sections = []
    paths = contract["paths"]
    assert isinstance(paths, dict)
    for path, methods in paths.items():
        for method, operation in methods.items():
            sections.append(_section(path, method, operation))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lipsync API</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem; }}
code, pre {{ font-family: ui-monospace, monospace; }} pre {{ overflow: auto; background: #8882; padding: .7rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ text-align: left; padding: .2rem .6rem .2rem 0; vertical-align: top; }}
</style></head><body>
<h1>Lipsync API</h1>
<p>Version {html.escape(__version__)}. The same as a document for machines: <a href="openapi.json">openapi.json</a>.
Send <code>Authorization: Bearer TOKEN</code> unless a route says that it is open.</p>
{"".join(sections)}
<h2>Models</h2>
{_models_html(contract)}
</body></html>
"""


def _section(path: str, method: str, operation: Mapping[str, object]) -> str:
    rows = []
    parameters, responses = operation.get("parameters", []), operation["responses"]
    assert isinstance(parameters, list)
    assert isinstance(responses, dict)
    rows += [(f"{each['name']} ({each['in']})", each["description"]) for each in parameters]
    body = operation.get("requestBody")
    if isinstance(body, dict):
        for kind, content in body["content"].items():
            properties = content["schema"].get("properties", {})
            rows.append((f"body: {kind}", ", ".join(properties) or content["schema"].get("$ref", "").rsplit("/")[-1]))
    rows += [(f"answers {status}", response["description"]) for status, response in responses.items()]
    table = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(text))}</td></tr>" for name, text in rows)
    open_note = " (open)" if operation.get("security") == [] else ""
    text = html.escape(str(operation.get("description", "")))
    return (
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
        f"<p>{html.escape(str(operation['summary']))}{open_note}. {text}</p><table>{table}</table>"
    )


def _models_html(contract: Json) -> str:
    components = contract["components"]
    assert isinstance(components, dict)
    return "".join(
        f"<details><summary>{html.escape(name)}</summary>"
        f"<pre>{html.escape(json.dumps(schema, indent=2))}</pre></details>"
        for name, schema in components["schemas"].items()
    )


def make_routes(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The rows for the document and the page of all `routes` and themselves."""

    @functools.cache
    def contract() -> Json:
        return document((*routes, *own))

    @functools.cache
    def texts() -> tuple[str, str]:
        return json.dumps(contract()), docs_page(contract())

    async def openapi_json(request: web.Request) -> web.StreamResponse:
        return web.Response(text=texts()[0], content_type="application/json")

    async def docs(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"}
        return web.Response(text=texts()[1], content_type="text/html", headers=headers)

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

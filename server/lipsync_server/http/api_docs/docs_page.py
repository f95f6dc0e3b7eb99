"""The page at /docs: every route with its fields, answers and one curl line, and the options of each engine.

Generated from the OpenAPI document, so that the page and the server cannot differ. Plain HTML: no script, no file from
another host. Knows the form of the document; does not know handlers.
"""

import html
import re
from collections.abc import Mapping, Sequence

from lipsync_server.engines.base import EngineInfo
from lipsync_server.schema_words import FieldLine, Schema, field_lines
from lipsync_server.version import __version__

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem; }
code, pre { font-family: ui-monospace, monospace; }
pre { overflow: auto; background: #8882; padding: .7rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; font-weight: normal; }
summary { cursor: pointer; }
"""
_SAMPLES = "-F image=@portrait.jpg -F audio=@speech.wav"


def docs_page(contract: Mapping[str, object], engines: Sequence[EngineInfo], address: str) -> str:
    """The page as HTML. contract: the OpenAPI document. address: the server's address in the curl lines."""
    paths = _mapping(contract["paths"])
    definitions = _mapping(_mapping(contract["components"])["schemas"])
    sections = [
        _section(path, method, _mapping(operation), definitions, address)
        for path, methods in paths.items()
        for method, operation in _mapping(methods).items()
    ]
    models = "".join(
        f"<details><summary><code>{html.escape(name)}</code></summary>"
        f"{_fields_table(field_lines(_mapping(schema), definitions))}</details>"
        for name, schema in definitions.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lipsync API</title><style>{_STYLE}</style></head><body>
<h1>Lipsync API</h1>
<p>Version {html.escape(__version__)}. For machines: <a href="openapi.json">openapi.json</a>. A server with tokens asks
for <code>Authorization: Bearer TOKEN</code> on every route that is not marked open: <code>export
LIPSYNC_TOKEN=...</code> before the lines below. A picture and a recording to try them with:</p>
<pre>curl -O {html.escape(address)}/page/portrait.jpg -O {html.escape(address)}/page/speech.wav</pre>
<p>Errors are problem documents (RFC 9457, <code>application/problem+json</code>): their <code>detail</code> says what
was wrong and what to do. <code>--fail-with-body</code> makes curl report them.</p>
{"".join(sections)}
<h2>Options of the engines</h2>
<p>They go into the field <code>options</code> as a JSON object, for example
<code>-F 'options={{"head_motion": 0.5}}'</code>.</p>
{"".join(_engine(info) for info in engines)}
<h2>Answers</h2>
{models}
</body></html>
"""


def _engine(info: EngineInfo) -> str:
    state = "can run here" if info.available else "cannot run here"
    reason = f": {_text(info.reason)}" if info.reason else ""
    return (
        f"<h3><code>{html.escape(info.name)}</code></h3><p>{html.escape(info.title)}. It {state}{reason}</p>"
        f"{_fields_table(field_lines(info.options_schema))}"
    )


def _section(path: str, method: str, operation: Schema, definitions: Schema, address: str) -> str:
    """The HTML of one route: parameters, body, answers and a curl line."""
    is_open = operation.get("security") == []
    parts = [
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p>{_text(operation['summary'])}{' (open)' if is_open else ''}. "
        f"{_text(operation.get('description', ''))}</p>",
    ]
    parameters = operation.get("parameters")
    if isinstance(parameters, list):
        lines = [
            FieldLine(
                f"{each['name']} ({each['in']})",
                field_lines({"properties": {"x": each["schema"]}})[0].kind,
                "",
                str(each["description"]),
            )
            for each in parameters
        ]
        parts.append(_fields_table(lines))
    content = _mapping(_mapping(operation.get("requestBody")).get("content"))
    for kind, form in content.items():
        schema = _mapping(_mapping(form).get("schema"))
        reference = str(schema.get("$ref", "")).rpartition("/")[2]
        lines = field_lines(_mapping(definitions.get(reference)) if reference else schema, definitions)
        parts.append(
            f"<details{' open' if kind == 'multipart/form-data' else ''}><summary>Body as "
            f"<code>{html.escape(kind)}</code></summary>{_fields_table(lines)}</details>"
        )
    parts.append(f"<p>{_answers(_mapping(operation['responses']))}</p>")
    parts.append(f"<pre>{html.escape(_curl(path, method, is_open, bool(content), address))}</pre>")
    return "".join(parts)


def _answers(responses: Schema) -> str:
    """The answers of one route as HTML; all problem documents share one sentence."""
    sentences, problems = [], []
    for status, response in responses.items():
        if "application/problem+json" in _mapping(_mapping(response).get("content")):
            problems.append(status)
        else:
            sentences.append(f"<code>{html.escape(status)}</code> {_text(_mapping(response).get('description', ''))}")
    if problems:
        sentences.append(f"Problem documents: {html.escape(', '.join(problems))}.")
    return " ".join(sentences)


def _curl(path: str, method: str, is_open: bool, takes_files: bool, address: str) -> str:
    """A curl line that calls the route. is_open: without a token. takes_files: with sample files."""
    parts = ["curl --fail-with-body"]
    if method != "get":
        parts.append(f"-X {method.upper()}")
    if not is_open:
        parts.append('-H "Authorization: Bearer $LIPSYNC_TOKEN"')
    if takes_files:
        parts.append(_SAMPLES)
    if path.endswith(("/video", "/lipsync")):
        parts.append("-o video.mp4")
    if path.endswith("/events"):
        parts.append("-N")
    place = path.replace("{job_id}", "$JOB_ID").replace("{name}", "app.js")
    return f'{" ".join(parts)} "{address}{place}"'


def _fields_table(lines: Sequence[FieldLine]) -> str:
    rows = []
    for line in lines:
        default = f"<br>Default: <code>{html.escape(line.default)}</code>" if line.default else ""
        rows.append(
            f"<tr><td><code>{html.escape(line.name)}</code></td><td>{html.escape(line.kind)}{default}</td>"
            f"<td>{_text(line.description)}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _text(value: object) -> str:
    """`value` as text escaped for HTML, with `backticks` turned into code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))


def _mapping(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}

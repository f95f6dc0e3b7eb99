"""Takes in the inputs of a job: multipart forms as a stream, JSON with URLs, limits checked while bytes arrive.

Knows the form's fields. Does not know what is a good picture (probe.py) nor what happens to it (submit.py). Nothing of
a body is read before the caller was let in: a client that asks with `Expect: 100-continue` sends nothing in vain.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError, HttpVersion11
from pydantic import JsonValue, TypeAdapter, ValidationError

from lipsync_server.errors import BadRequest, InvalidInput, TooLarge, UnsupportedMedia
from lipsync_server.http.fetch import Fetcher
from lipsync_server.http.schemas import JOB_FIELDS
from lipsync_server.http.sink import FileSink, Taken
from lipsync_server.settings import MIB, Settings
from lipsync_server.validation import unknown

MAX_TEXT_BYTES = 64 * 1024
MAX_JSON_BYTES = 256 * 1024
_STALLED_S = 60.0
_JSON_FIELDS = ("options", "face_box")
_JSON = TypeAdapter[JsonValue](JsonValue)


@dataclass(frozen=True)
class FileField:
    """A file of a job: sent as `name`, or fetched from the URL in `url_name`."""

    name: str
    required: bool
    max_bytes: int

    @property
    def url_name(self) -> str:
        return f"{self.name}_url"


@dataclass
class Form:
    """What came in: files on disk, the other fields as plain values."""

    files: dict[str, Taken] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)


def file_fields(settings: Settings) -> dict[str, FileField]:
    return {
        "image": FileField("image", True, settings.max_image_bytes),
        "audio": FileField("audio", True, settings.max_audio_bytes),
        "second_audio": FileField("second_audio", False, settings.max_audio_bytes),
    }


async def leave_expectation(request: web.Request) -> None:
    """Do not answer `Expect: 100-continue` yet; go_on() does, once the caller may send."""


async def go_on(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What was sent so far is not part of the answer.
        request.writer.output_size = 0


def check_length(request: web.Request, settings: Settings) -> int:
    """The body's announced length; raises TooLarge when it cannot be right."""
    length = request.content_length or 0
    most = sum(each.max_bytes for each in file_fields(settings).values()) + MIB
    if length > most:
        raise TooLarge(
            f"The request has {length / MIB:.0f} MiB; at most {settings.max_image_bytes / MIB:.0f} MiB of picture and "
            f"{settings.max_audio_bytes / MIB:.0f} MiB of recording are taken."
        )
    return length


async def receive(
    request: web.Request, folder: Path, settings: Settings, fetcher: Fetcher, *, allow_json: bool
) -> Form:
    """Stream the request's inputs into `folder`. Raises the LipsyncError that says what is wrong with it."""
    kind = request.content_type
    fields = file_fields(settings)
    if kind == "multipart/form-data":
        form = await _multipart(request, folder, fields)
    elif kind == "application/json" and allow_json:
        form = await _json(request)
    else:
        also = ", or as application/json with image_url and audio_url" if allow_json else ""
        raise UnsupportedMedia(f"The body is {kind}. Send the fields image and audio as multipart/form-data{also}.")
    await _fetch(form, folder, fields, fetcher)
    for each in fields.values():
        if each.required and each.name not in form.files:
            raise InvalidInput(f"The field {each.name} is missing: send a file, or its address as {each.url_name}.",
                               field=each.name)  # fmt: skip
    return form


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    """Turn what aiohttp raises on a broken body into the error that says so."""
    try:
        yield
    except TimeoutError as error:
        raise BadRequest(f"The upload stalled: nothing came for {_STALLED_S:.0f} s. Send it again.") from error
    except (web.RequestPayloadError, web.HTTPBadRequest) as error:
        raise BadRequest(f"The body broke off or is malformed: {error}.") from error
    except (ValueError, RuntimeError, AssertionError, LookupError, HttpProcessingError) as error:
        raise BadRequest(f"The body is not well-formed multipart/form-data: {error}.") from error


async def _multipart(request: web.Request, folder: Path, fields: dict[str, FileField]) -> Form:
    form = Form()
    async with _reading():
        reader = await request.multipart()
    while True:
        async with _reading(), asyncio.timeout(_STALLED_S):
            part = await reader.next()
        if part is None:
            return form
        if not isinstance(part, BodyPartReader) or not part.name:
            raise BadRequest('Every part of the form needs a name: Content-Disposition: form-data; name="image".')
        name = part.name
        if name not in JOB_FIELDS:
            raise unknown(name, owner="the request", known=JOB_FIELDS)
        if name in form.files or name in form.values:
            raise InvalidInput(f"The field {name} is there twice.", field=name)
        if name in fields:
            form.files[name] = await _file(part, folder, fields[name])
        else:
            text = await _text(part, name)
            # Forms send an empty string for what was left empty; that is no value.
            if text or name == "prompt":
                form.values[name] = _parsed(name, text)


async def _file(part: BodyPartReader, folder: Path, field: FileField) -> Taken:
    path = folder / field.name
    async with FileSink(path, field.name, field.max_bytes) as sink:
        while True:
            async with _reading(), asyncio.timeout(_STALLED_S):
                chunk = await part.read_chunk(256 * 1024)
            if not chunk:
                break
            await sink.write(chunk)
    return Taken(field.name, path, part.filename or "", sink.n_bytes, sink.sha256)


async def _text(part: BodyPartReader, name: str) -> str:
    data = bytearray()
    while True:
        async with _reading(), asyncio.timeout(_STALLED_S):
            chunk = await part.read_chunk()
        if not chunk:
            break
        data += chunk
        if len(data) > MAX_TEXT_BYTES:
            raise TooLarge(f"The field {name} is longer than {MAX_TEXT_BYTES // 1024} KiB.", field=name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The field {name} is not UTF-8 text.", field=name) from error


def _parsed(name: str, text: str) -> object:
    """A form field's text as the value that the model expects: JSON where it is a list or an object."""
    if name not in _JSON_FIELDS:
        return text
    try:
        return json.loads(text if text.lstrip().startswith(("{", "[")) else f"[{text}]")
    except ValueError as error:
        example = '{"steps": 8}' if name == "options" else "10,20,200,260"
        raise InvalidInput(f"The field {name} is not understood; write it like {example}.", field=name) from error


async def _json(request: web.Request) -> Form:
    data = bytearray()
    async with _reading():
        while True:
            async with asyncio.timeout(_STALLED_S):
                chunk = await request.content.readany()
            if not chunk:
                break
            data += chunk
            if len(data) > MAX_JSON_BYTES:
                raise TooLarge(f"The JSON is longer than {MAX_JSON_BYTES // 1024} KiB.")
    try:
        values = _JSON.validate_json(bytes(data))
    except ValidationError as error:
        raise BadRequest("The body is not valid JSON.") from error
    if not isinstance(values, dict):
        raise BadRequest("The body has to be a JSON object.")
    return Form(values=dict(values))


async def _fetch(form: Form, folder: Path, fields: dict[str, FileField], fetcher: Fetcher) -> None:
    for each in fields.values():
        url = form.values.pop(each.url_name, None)
        if url is None:
            continue
        if each.name in form.files:
            raise InvalidInput(f"Send {each.name} or {each.url_name}, not both.", field=each.url_name)
        if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
            raise InvalidInput(f"{each.url_name} has to be an http:// or https:// address.", field=each.url_name)
        form.files[each.name] = await fetcher.download(
            url, folder / each.name, field=each.url_name, max_bytes=each.max_bytes
        )

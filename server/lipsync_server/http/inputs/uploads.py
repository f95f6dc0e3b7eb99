"""Receives the inputs of a job, sent as a form or as JSON, as a stream with limits on size and speed.

Knows the form's fields. Does not check pictures (probe.py) and makes no job (submit.py). No byte of a body is read
before the caller's token has been checked, so that a refused client that sent `Expect: 100-continue` has sent no
upload for nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError, HttpVersion11

from lipsync_server.errors import BadRequest, InvalidInput, LipsyncError, TooLarge, UnsupportedMedia
from lipsync_server.http.answers.file_names import part_names
from lipsync_server.http.answers.schemas import JOB_FIELDS
from lipsync_server.http.callers.addresses import checked_url
from lipsync_server.http.inputs.fetch import Fetcher
from lipsync_server.http.inputs.json_body import JsonBody, parse_json
from lipsync_server.http.inputs.part_headers import multipart_of
from lipsync_server.http.inputs.sink import FileSink, Taken
from lipsync_server.settings import MIB, Settings
from lipsync_server.validation import show, unknown

MAX_TEXT_BYTES = 64 * 1024
STALLED_S = 60.0
"""The longest pause of a body, in seconds; the limit below applies only after so many seconds."""
SLOWEST_BYTES_PER_S = 2048
"""A body whose average speed is lower is refused: a modem would be faster."""
_BEGINNING_BYTES = 256
_JSON_FIELDS = ("options", "face_box")
_TEXT_FIELDS = ("prompt", "script")


@dataclass(frozen=True)
class FileField:
    """A file field of a job: the file is sent as `name`, or fetched from the URL in `url_name`."""

    name: str
    required: bool
    max_bytes: int

    @property
    def url_name(self) -> str:
        """The field with a URL in place of this file, such as image_url."""
        return f"{self.name}_url"


@dataclass
class Form:
    """The received inputs: files on disk, the other fields as plain values."""

    files: dict[str, Taken] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)


def file_fields(settings: Settings) -> dict[str, FileField]:
    """The file fields of a job by name, with the server's limits."""
    return {
        "image": FileField("image", True, settings.max_image_bytes),
        "audio": FileField("audio", True, settings.max_audio_bytes),
        "second_audio": FileField("second_audio", False, settings.max_audio_bytes),
    }


async def delay_continue(request: web.Request) -> None:
    """Delay the answer to `Expect: 100-continue`; send_continue() sends it once the caller may send the body."""


async def send_continue(request: web.Request) -> None:
    """Answer `100 Continue` to a client that waits for it: the caller may send the body now."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Reset aiohttp's counter: the interim answer is not part of the response.
        request.writer.output_size = 0


def check_length(request: web.Request, settings: Settings) -> int:
    """Check Content-Length. Raises TooLarge when the body cannot be within the limits."""
    length = request.content_length or 0
    # Base64 makes a file a third longer.
    most = sum(each.max_bytes for each in file_fields(settings).values()) * 4 // 3 + MIB
    if length > most:
        raise TooLarge(
            f"The request has {length / MIB:.0f} MiB; at most {settings.max_image_bytes / MIB:.0f} MiB of picture and "
            f"{settings.max_audio_bytes / MIB:.0f} MiB of recording are allowed."
        )
    return length


async def receive(request: web.Request, folder: Path, settings: Settings, fetcher: Fetcher) -> Form:
    """Stream the request's inputs into `folder`. Raises a LipsyncError that names the fault of the request."""
    kind = request.content_type
    fields = file_fields(settings)
    pace = _Pace()
    if kind == "multipart/form-data":
        form = await _multipart(request, folder, fields, pace)
    elif kind == "application/json" or kind.endswith("+json"):
        form = await _json(request, folder, fields, pace)
    else:
        raise UnsupportedMedia(
            f"The body is {kind}. Send the fields image and audio as multipart/form-data, or a JSON object with "
            "image_url and audio_url (addresses) or image and audio (base64) as application/json. Words to speak in "
            "place of a recording are the field text."
        )
    await _fetch(form, folder, fields, fetcher)
    for each in fields.values():
        if each.required and each.name not in form.files and not (each.name == "audio" and _has_text(form)):
            words = ", or the words to speak as text" if each.name == "audio" else ""
            raise InvalidInput(
                f"The field {each.name} is missing: send a file, or its address as {each.url_name}{words}.",
                field=each.name,
            )
    if "audio" in form.files and _has_text(form):
        raise InvalidInput(
            "Send a recording as audio, or words to speak as text, not both. The words of a recording, for captions, "
            "are the field script.",
            field="text",
        )
    return form


def _has_text(form: Form) -> bool:
    """Whether the caller sent words to speak in place of a recording."""
    text = form.values.get("text")
    return isinstance(text, str) and bool(text.strip())


class _Pace:
    """Measures the rate of a body, so that no sender occupies an upload slot with single bytes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._n_bytes = 0

    def count(self, chunk: bytes) -> None:
        """Count the bytes of `chunk`. Raises BadRequest when the body is too slow on average."""
        self._n_bytes += len(chunk)
        elapsed_s = time.monotonic() - self._began
        if elapsed_s > STALLED_S + self._n_bytes / SLOWEST_BYTES_PER_S:
            raise BadRequest(
                f"The upload is too slow: {self._n_bytes} bytes in {elapsed_s:.0f} s. Send it again over a better line."
            )


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    """Turn aiohttp's errors about a broken body, and a body that stalls, into a BadRequest that explains them."""
    try:
        async with asyncio.timeout(STALLED_S):
            yield
    except TimeoutError as error:
        raise BadRequest(f"The upload stalled: nothing came for {STALLED_S:.0f} s. Send it again.") from error
    except (web.RequestPayloadError, web.HTTPBadRequest) as error:
        raise BadRequest("The body broke off or is malformed. Send it again.") from error
    except (ValueError, RuntimeError, AssertionError, LookupError, HttpProcessingError) as error:
        raise BadRequest(
            "The body is not well-formed multipart/form-data, or the boundary in the Content-Type header is not the "
            "one in the body. If you set that header by hand, take it away: the client writes it."
        ) from error


async def _multipart(request: web.Request, folder: Path, fields: dict[str, FileField], pace: _Pace) -> Form:
    """Receive a form part by part, each file into `folder`. A text in place of a file is an error at the end."""
    form = Form()
    texts: list[LipsyncError] = []
    boundary = request.headers.get("Content-Type", "").lower().partition("boundary=")[2]
    if not boundary.strip('" ;'):
        raise BadRequest(
            "The Content-Type header is multipart/form-data without a boundary. Take away the Content-Type header that "
            "you set by hand; the client writes it, with its boundary."
        )
    async with _reading():
        reader = multipart_of(request)
    while True:
        async with _reading():
            part = await reader.next()
        if part is None:
            if texts:
                raise texts[0]
            return form
        if not isinstance(part, BodyPartReader):
            raise BadRequest("A part of the form is itself multipart. Send each file as a part of its own.")
        name, file_name = part_names(part.headers, part.name, part.filename)
        if not name:
            raise BadRequest('Every part of the form needs a name: Content-Disposition: form-data; name="image".')
        if name not in JOB_FIELDS:
            raise unknown(name, owner="the request", known=JOB_FIELDS)
        if name in form.files or name in form.values:
            raise InvalidInput(f"The field {name} is there twice.", field=name)
        if name in fields:
            form.files[name], text = await _file(part, folder, fields[name], file_name, pace)
            if text:
                texts.append(_text_for_a_file(fields[name], text))
        else:
            text = await _text(part, name, pace)
            # Forms send an empty string for an empty field; it counts as no value.
            if not _is_blank(name, text) and (text or name == "prompt"):
                form.values[name] = _parsed(name, text)


async def _file(
    part: BodyPartReader, folder: Path, field: FileField, file_name: str | None, pace: _Pace
) -> tuple[Taken, str]:
    """Stream a part to disk. The second value is the start of the text when text was sent instead of a file."""
    path = folder / field.name
    beginning = b""
    async with FileSink(path, field.name, field.max_bytes) as sink:
        while True:
            async with _reading():
                chunk = await part.read_chunk(256 * 1024)
            if not chunk:
                break
            pace.count(chunk)
            beginning = (beginning + chunk)[:_BEGINNING_BYTES] if len(beginning) < _BEGINNING_BYTES else beginning
            await sink.write(chunk)
    taken = Taken(field.name, path, file_name or "", sink.n_bytes, sink.sha256)
    return taken, _as_text(beginning) if file_name is None else ""


def _as_text(beginning: bytes) -> str:
    """The start of a file as text when it is printable, else "". No picture or recording starts with printable text."""
    try:
        text = beginning.decode("utf-8", "strict" if len(beginning) < _BEGINNING_BYTES else "ignore")
    except UnicodeDecodeError:
        return ""
    return text.strip() if all(character.isprintable() or character in "\r\n\t" for character in text) else ""


def _text_for_a_file(field: FileField, text: str) -> LipsyncError:
    """The error for a text that was sent in place of a file, with the remedy for n8n and curl."""
    came = f"The field {field.name} has to be a file, and the text {show(text)} came in its place."
    if text.lower().startswith(("http://", "https://")):
        return InvalidInput(f"{came} Send an address as {field.url_name}.", field=field.name)
    return UnsupportedMedia(
        f'{came} In n8n\'s HTTP Request node choose "n8n Binary File" as the type of this parameter and give the '
        f"name of the binary field; with curl write -F {field.name}=@FILE. Base64 text goes into a JSON body.",
        field=field.name,
    )


async def _text(part: BodyPartReader, name: str, pace: _Pace) -> str:
    """The text of a part. Raises TooLarge beyond MAX_TEXT_BYTES, InvalidInput if it is not UTF-8."""
    data = bytearray()
    while True:
        async with _reading():
            chunk = await part.read_chunk()
        if not chunk:
            break
        pace.count(chunk)
        data += chunk
        if len(data) > MAX_TEXT_BYTES:
            raise TooLarge(f"The field {name} is longer than {MAX_TEXT_BYTES // 1024} KiB.", field=name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The field {name} is not UTF-8 text.", field=name) from error


def _parsed(name: str, text: str) -> object:
    """Convert a form field's text to the value that the model expects: JSON for a list or an object."""
    if name not in _JSON_FIELDS:
        return text if name == "prompt" else text.strip()
    try:
        return parse_json(text if text.lstrip().startswith(("{", "[")) else f"[{text}]")
    except BadRequest as error:
        example = '{"steps": 8}' if name == "options" else "10,20,200,260"
        raise InvalidInput(
            f"The field {name} is not understood; write it like {example}. {error.detail}", field=name
        ) from error


async def _json(request: web.Request, folder: Path, fields: dict[str, FileField], pace: _Pace) -> Form:
    """Receive a JSON body, with files in base64 written into `folder`."""
    form = Form()
    async with AsyncExitStack() as open_files:
        sinks: dict[str, FileSink] = {}

        async def write(name: str, data: bytes) -> None:
            if name not in sinks:
                field = fields[name]
                sinks[name] = await open_files.enter_async_context(FileSink(folder / name, name, field.max_bytes))
            await sinks[name].write(data)

        body = JsonBody(fields, write, {field.url_name: field.name for field in fields.values()})
        while True:
            async with _reading():
                chunk = await request.content.readany()
            if not chunk:
                break
            pace.count(chunk)
            await body.feed(chunk)
        values = body.close()
    # Null means that the field is absent: many clients write every field that they know.
    form.values = {
        name: _unpacked(name, value)
        for name, value in values.items()
        if value is not None and not _is_blank(name, value)
    }
    for name in fields:
        text = form.values.pop(name, None)
        if name in sinks:
            form.files[name] = Taken(name, folder / name, "", sinks[name].n_bytes, sinks[name].sha256)
        elif text is not None:
            raise InvalidInput(f"{name} cannot be {show(text)}: it has to be a file in base64, as text.", field=name)
    return form


def _unpacked(name: str, value: object) -> object:
    """The value of a field of a JSON body. A list or an object may come as JSON text, as it does in a form."""
    return _parsed(name, value) if name in _JSON_FIELDS and isinstance(value, str) else value


def _is_blank(name: str, value: object) -> bool:
    """Whether the value is text without a character, which counts as no value; spoken words and a prompt stay."""
    return isinstance(value, str) and name not in _TEXT_FIELDS and not value.strip()


async def _fetch(form: Form, folder: Path, fields: dict[str, FileField], fetcher: Fetcher) -> None:
    """Download the files whose addresses the caller sent."""
    for each in fields.values():
        url = form.values.pop(each.url_name, None)
        if url is None:
            continue
        if each.name in form.files:
            raise InvalidInput(f"Send {each.name} or {each.url_name}, not both.", field=each.url_name)
        form.files[each.name] = await fetcher.download(
            checked_url(url, each.url_name), folder / each.name, field=each.url_name, max_bytes=each.max_bytes
        )

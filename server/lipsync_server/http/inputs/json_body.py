"""Read a job's JSON body as a stream: files in base64 are written to disk as they arrive; the rest is a small object.

Many clients can send only JSON, and a recording in base64 may be hundreds of megabytes, so the body is never held in
memory. The scanner below follows strings and nesting only. It cuts out the text of each file, and `json` parses the
small rest. Numbers that are not finite, deep nesting and broken Unicode are refused. Knows bytes; the caller names the
fields that hold files.
"""

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType

from lipsync_server.errors import BadRequest, InvalidInput, TooLarge
from lipsync_server.validation import UNSEEN, why_not_json

MAX_REST_BYTES = 256 * 1024
_BOM = b"\xef\xbb\xbf"
# The bytes of blanks, and of the characters that nobody sees, in UTF-8. Base64 itself has none of these bytes.
_BLANKS = bytes(sorted({*b" \t\r\n", *UNSEEN.encode()}))
_DATA_URI = re.compile(rb"data:[^,]{0,200},", re.IGNORECASE)
# A data URI may be written with percent escapes, as every URI.
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CUT_ESCAPE = re.compile(rb"%[0-9A-Fa-f]?$")
_LONGEST_PREFIX = 210

Write = Callable[[str, bytes], Awaitable[None]]


class JsonBody:
    """A parser: feed() receives the chunks of the body, close() returns the object without its files.

    file_fields: top-level fields whose text is base64 or a data URI. url_fields: fields for an address, each with the
    file that it stands for; many clients write a data URI there. write: called with a file field and decoded bytes.
    """

    def __init__(
        self, file_fields: Collection[str], write: Write, url_fields: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._file_fields, self._url_fields, self._write = file_fields, url_fields, write
        self._file_texts: dict[str, _Base64Text] = {}
        self._rest = bytearray()
        self._depth = 0
        self._in_string = self._escaped = False
        self._string_at = 0
        self._key = ""
        self._after_colon = False
        self._file: _Base64Text | None = None
        self._begun = False
        self._start = b""

    async def feed(self, chunk: bytes) -> None:
        """Parse the next bytes. Raises BadRequest or InvalidInput for a fault, TooLarge for too much text."""
        if not self._begun:
            chunk, self._start = self._start + chunk, b""
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._start = chunk
                return
            if chunk.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in chunk[:4]:
                raise BadRequest("The JSON is UTF-16 or UTF-32. Send it as UTF-8.")
            self._begun, chunk = True, chunk.removeprefix(_BOM)
        at = 0
        while at < len(chunk):
            if self._file is not None:
                at = await self._feed_file(self._file, chunk, at)
            else:
                at = self._feed_rest(chunk, at)
                if len(self._rest) > MAX_REST_BYTES:
                    raise TooLarge(f"The JSON is longer than {MAX_REST_BYTES // 1024} KiB beside its files.")

    def close(self) -> dict[str, object]:
        """The object without its files. Raises BadRequest when the body is not one JSON object."""
        if self._file is not None:
            raise BadRequest(f"The JSON broke off inside the field {self._file.field}.")
        return parse_object(bytes(self._rest) or self._start)

    async def _feed_file(self, file: "_Base64Text", chunk: bytes, at: int) -> int:
        """Decode the text of a file up to the quote that ends it; returns the position after the decoded part."""
        end = at
        while True:
            end = chunk.find(b'"', end)
            if end < 0:
                await self._pass(file, file.decode(chunk[at:]))
                return len(chunk)
            if not file.ends_escaped(chunk[at:end]):
                break
            end += 1
        await self._pass(file, file.decode(chunk[at:end]) + file.end())
        self._file = None
        self._rest += b'"'
        return end + 1

    async def _pass(self, file: "_Base64Text", data: bytes) -> None:
        """Hand the decoded bytes of a file on. Raises InvalidInput for a second text of the same file."""
        if data:
            if self._file_texts.setdefault(file.field, file) is not file:
                name = file.field
                raise InvalidInput(f"The file {name} is there twice. Send {name} or {name}_url, once.", field=name)
            await self._write(file.field, data)

    def _feed_rest(self, chunk: bytes, at: int) -> int:
        """Collect bytes up to the start of the next file's text; returns the position after them."""
        for index in range(at, len(chunk)):
            byte = chunk[index : index + 1]
            self._rest += byte
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif byte == b"\\":
                    self._escaped = True
                elif byte == b":" and self._begins_data_uri():
                    field = self._url_fields[self._key]
                    del self._rest[self._string_at + 1 :]
                    self._in_string = self._after_colon = False
                    self._file = _Base64Text(field, b"data:")
                    return index + 1
                elif byte == b'"':
                    self._in_string = False
                    if self._depth == 1 and not self._after_colon:
                        self._key = _text(self._rest[self._string_at :])
            elif byte == b'"':
                if self._depth == 1 and self._after_colon and self._key in self._file_fields:
                    self._after_colon = False
                    self._file = _Base64Text(self._key)
                    return index + 1
                self._in_string, self._string_at = True, len(self._rest) - 1
            elif byte in b"{[":
                self._depth += 1
                self._after_colon = False if self._depth > 1 else self._after_colon
            elif byte in b"}]":
                self._depth -= 1
            elif byte == b":" and self._depth == 1:
                self._after_colon = True
            elif byte == b"," and self._depth == 1:
                self._after_colon = False
            if len(self._rest) > MAX_REST_BYTES:
                return index + 1
        return len(chunk)

    def _begins_data_uri(self) -> bool:
        """Whether the string being read is a data URI in a field for an address."""
        is_address = self._depth == 1 and self._after_colon and self._key in self._url_fields
        return is_address and self._rest[self._string_at + 1 :].strip(_BLANKS).lower() == b"data:"


class _Base64Text:
    """Decodes one JSON string that holds a file: JSON escapes, the head of a data URI, base64 in either alphabet."""

    def __init__(self, field: str, head: bytes = b"") -> None:
        self.field = field
        self._escape = b""  # an escape that a chunk cut in two
        self._head: bytes | None = head  # the first bytes, until it is known whether they are a data URI's
        self._left = b""  # less than four characters of base64
        self._cut = b""  # a percent escape that a chunk cut in two

    def ends_escaped(self, text: bytes) -> bool:
        """Whether a quote after `text` is escaped by a backslash, and so does not end the string."""
        text = self._escape + text
        return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1

    def decode(self, text: bytes) -> bytes:
        """The bytes of the file that `text` completes; a rest that cannot be decoded yet is held back."""
        text = self._unescaped(self._escape + text)
        if self._head is not None:
            self._head += text if self._head else text.lstrip(_BLANKS)
            if len(self._head) < _LONGEST_PREFIX:
                return b""
            text = self._without_head()
        return self._from_base64(text)

    def end(self) -> bytes:
        """Return the bytes that were held back until the text ended."""
        if self._escape:
            raise self._broken()
        data = self._from_base64(self._without_head()) if self._head is not None else b""
        left = self._left.rstrip(b"=")
        if len(left) == 1 or self._cut:
            raise self._broken()
        return data + (self._bytes_of(left + b"=" * (-len(left) % 4)) if left else b"")

    def _without_head(self) -> bytes:
        """The collected first characters without the head of a data URI. Raises InvalidInput for an address."""
        head, self._head = self._head or b"", None
        uri = _DATA_URI.match(head)
        if uri and b";base64" not in uri.group().lower():
            raise InvalidInput(
                f"The data URI in {self.field} is not in base64; write data:...;base64,...", field=self.field
            )
        if uri is None and head.lower().startswith((b"http://", b"https://")):
            raise InvalidInput(
                f"The field {self.field} holds an address; send an address as {self.field}_url.", field=self.field
            )
        return head[uri.end() :] if uri else head

    def _unescaped(self, text: bytes) -> bytes:
        """`text` without JSON escapes; an escape at its end that may be incomplete is held back."""
        self._escape = b""
        if b"\\" not in text:
            return text
        if cut := re.search(rb"(?<!\\)(?:\\\\)*(\\(?:u[0-9A-Fa-f]{0,3})?)$", text):
            self._escape, text = cut.group(1), text[: cut.start(1)]
        try:
            return str(json.loads(b'"' + text + b'"', strict=False)).encode()
        except ValueError as error:
            raise self._broken() from error

    def _from_base64(self, text: bytes) -> bytes:
        text, self._cut = self._cut + text, b""
        if cut := _CUT_ESCAPE.search(text):
            text, self._cut = text[: cut.start()], cut[0]
        text = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), text)
        text = self._left + text.translate(_STANDARD_ALPHABET, _BLANKS)
        whole = len(text) // 4 * 4
        if b"=" in text[:whole]:
            # Padding may only end the text, so end() decodes it.
            whole = text.index(b"=") // 4 * 4
        text, self._left = text[:whole], text[whole:]
        if len(self._left) > 8:
            raise self._broken()
        return self._bytes_of(text)

    def _bytes_of(self, text: bytes) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._broken() from error

    def _broken(self) -> InvalidInput:
        return InvalidInput(
            f"The field {self.field} is not a file in base64. Send base64 text, a data URI, or an address as "
            f"{self.field}_url.",
            field=self.field,
        )


# The alphabet of RFC 4648 section 5, for file names and URLs, as the standard one.
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


def parse_object(text: bytes) -> dict[str, object]:
    """Parse a JSON object to plain values. Raises BadRequest for any other text."""
    values = parse_json(text)
    if not isinstance(values, dict):
        raise BadRequest("The body has to be a JSON object.")
    return values


def parse_json(text: bytes | str) -> object:
    """Parse JSON to plain values. Raises BadRequest, also for NaN, Infinity and numbers beyond the range of a float."""
    try:
        values: object = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The JSON cannot be read: {_reason(error)}.") from error
    if why := why_not_json(values):
        raise BadRequest(f"The JSON cannot be used: {why}.")
    return values


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has")


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _text(literal: bytes | bytearray) -> str:
    """The text of a JSON string, or "" if it is broken."""
    try:
        return str(json.loads(bytes(literal)))
    except ValueError:
        return ""

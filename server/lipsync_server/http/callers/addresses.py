"""Checks the addresses that callers send: image_url, audio_url, callback_url, and the Host and Origin headers.

URL parsers raise errors of their own on broken text. Only this module calls them, so that a broken address is always
answered with a sentence that names the field. It opens no connection: fetch.py does.
"""

import string
from urllib.parse import SplitResult, urlsplit

from yarl import URL

from lipsync_server.errors import InvalidInput
from lipsync_server.validation import UNSEEN, show

_MAX_CHARACTERS = 8_192
_BLANKS = string.whitespace + UNSEEN


def checked_url(value: object, field: str) -> str:
    """`value`, an http or https address, without surrounding blanks. Raises InvalidInput that names the field."""
    wrong = f"{field} cannot be {show(value)}: it has to be an http:// or https:// address"
    if not isinstance(value, str):
        raise InvalidInput(f"{wrong}.", field=field)
    text = value.strip(_BLANKS).strip()
    if len(text) > _MAX_CHARACTERS:
        raise InvalidInput(f"{field} is longer than {_MAX_CHARACTERS} characters.", field=field)
    if not text.lower().startswith(("http://", "https://")):
        raise InvalidInput(f"{wrong}.", field=field)
    if any(character.isspace() or ord(character) < 32 or ord(character) == 127 for character in text):
        raise InvalidInput(f"{wrong} without blanks inside.", field=field)
    try:
        parsed = URL(text)
        host, port = parsed.host, parsed.port
        hidden = URL(str(parsed)).host
    except (ValueError, UnicodeError) as error:
        raise InvalidInput(f"{wrong}, and this one is broken ({error}).", field=field) from error
    if not host or not hidden or any(character in host for character in "\\%\r\n\t /@[]<>"):
        raise InvalidInput(f"{wrong} with a host name.", field=field)
    if port is None or not 0 < port < 65_536:
        raise InvalidInput(f"{wrong} with a port from 1 to 65535.", field=field)
    return text


def split_or_none(text: str) -> SplitResult | None:
    """Split `text` into the parts of a URL; None when it cannot be split."""
    try:
        parts = urlsplit(text)
        _ = parts.hostname, parts.port
    except ValueError:
        return None
    return parts

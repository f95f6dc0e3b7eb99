"""Values of flags: `--option KEY=VALUE`, which may be given several times, and texts that may come from a file."""

import json
from collections.abc import Iterable
from pathlib import Path


def key_values(pairs: Iterable[str]) -> dict[str, object]:
    """Options by name from KEY=VALUE pairs. A value that is JSON (`8`, `true`, `[1, 2]`) is parsed, any other is text.

    Raises InvalidInput for a pair without a name or without `=`.
    """
    from lipsync_server.errors import InvalidInput

    found: dict[str, object] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise InvalidInput(f"--option takes KEY=VALUE, for example --option steps=8; got {pair!r}.")
        try:
            found[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            found[key.strip()] = text
    return found


def text_of(given: str | None) -> str | None:
    """The text of a flag; for @FILE the text in that file. Raises InvalidInput for a file that is not UTF-8 text."""
    from lipsync_server.errors import InvalidInput

    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{given[1:]} cannot be read as a text file in UTF-8: {error}.") from error

"""Engine options on the command line: `--option KEY=VALUE`, which may be given several times."""

import json
from collections.abc import Iterable


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

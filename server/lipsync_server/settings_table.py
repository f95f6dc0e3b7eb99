"""Writes the README's settings table from settings.py: `python -m lipsync_server.settings_table README.md`.

The table stands between two marker comments; a test compares it with the code, so it cannot go stale.
"""

import sys
from pathlib import Path

from pydantic import AliasChoices
from pydantic_core import PydanticUndefined

from lipsync_server.settings import Settings

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def settings_table() -> str:
    """A Markdown table: variable, default, what it does. One row a field, in the order of the code."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        names = [f"LIPSYNC_{name.upper()}"]
        if isinstance(field.validation_alias, AliasChoices):
            others = [str(alias) for alias in field.validation_alias.choices if str(alias).isupper()]
            names += [alias for alias in others if alias not in names]
        default = "" if field.default in (PydanticUndefined, None, "", []) else f"`{field.default}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| {'<br>'.join(f'`{one}`' for one in names)} | {default} | {text} |")
    return "\n".join(rows)


def with_table(document: str) -> str:
    """`document` with what stands between the markers replaced; raises ValueError when they are missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{after}"


def main() -> None:
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

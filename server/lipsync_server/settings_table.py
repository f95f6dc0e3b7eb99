"""Writes the README's settings table from settings.py: `python -m lipsync_server.settings_table README.md`.

The table is the block `settings` (markdown.py). A test compares the table with the code.
"""

import sys
from pathlib import Path

from pydantic import AliasChoices
from pydantic_core import PydanticUndefined

from lipsync_server.markdown import blocks, table, with_blocks
from lipsync_server.settings import Settings

BLOCK = "settings"


def settings_table() -> str:
    """A Markdown table: variable, default, description. One row a field, in the order of the code."""
    rows = []
    for name, field in Settings.model_fields.items():
        names = [f"LIPSYNC_{name.upper()}"]
        if isinstance(field.validation_alias, AliasChoices):
            others = [str(alias) for alias in field.validation_alias.choices if str(alias).isupper()]
            names += [alias for alias in others if alias not in names]
        default = "" if field.default in (PydanticUndefined, None, "", []) else f"`{field.default}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(("<br>".join(f"`{one}`" for one in names), default, text))
    return table(("variable", "default", "what it does"), rows)


def with_table(document: str) -> str:
    """Return `document` with a new settings table. Raises ValueError when the block is missing."""
    if BLOCK not in blocks(document):
        raise ValueError(f"the document needs the lines <!-- begin {BLOCK} --> and <!-- end {BLOCK} -->")
    return with_blocks(document, lambda name: (lambda _: settings_table()) if name == BLOCK else None)


def main() -> None:
    """Rewrite the table of the document on the command line."""
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Writes docs/options.md's tables from the engines' options models: `python -m lipsync_server.options_table PAGE`.

One block `options ENGINE` for each engine of this project; a test compares the page with the code. The words are those
of `lipsync engines` and of the page at /docs. Knows no engine in particular.
"""

import sys
from pathlib import Path

from lipsync_server.engines.registry import ENGINES, SHIPPED
from lipsync_server.markdown import Writer, table, with_blocks
from lipsync_server.schema_words import field_lines

BLOCK = "options"


def options_table(engine: str) -> str:
    """A Markdown table of the options of one engine, one row each, in the order of the code."""
    lines = field_lines(ENGINES.options_model(engine).model_json_schema())
    rows = [(f"`{line.name}`", line.kind, line.default and f"`{line.default}`", line.description) for line in lines]
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return table(("option", "type and range", "default", "what it does"), cells)


def with_options(document: str) -> str:
    """`document` with the block of every engine written anew; raises ValueError where an engine has no block."""
    for name in SHIPPED:
        if f"<!-- begin {BLOCK} {name} -->" not in document:
            raise ValueError(f"the document needs the lines <!-- begin {BLOCK} {name} --> and <!-- end {BLOCK} -->")

    def writer_of(block: str) -> Writer | None:
        return (lambda arguments: options_table(arguments[0])) if block == BLOCK else None

    return with_blocks(document, writer_of)


def main() -> None:
    path = Path(sys.argv[1])
    path.write_text(with_options(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Tables of measured numbers in Markdown documents, for the engines' bench_table modules. Knows no numbers."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or a sentence when there is no row."""
    if not rows:
        return "Not measured yet."
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))


def rewrite(with_tables: Callable[[str, Path], str]) -> None:
    """Put `with_tables`' result in the place of the document that the command line names; numbers lie beside it."""
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    path.write_text(with_tables(text, path.parent / "performance"), encoding="utf-8")

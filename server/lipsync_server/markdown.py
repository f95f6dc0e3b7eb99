"""Markdown tables that a program writes, and that a test compares with their source.

A document marks the place of a table with two comments. All text between them is replaced:

    <!-- begin NAME ARGUMENT ... -->
    | heading |
    | --- |
    <!-- end NAME -->

Used for the settings in the README and for measured numbers in docs/. Knows no table by name.
"""

import re
from collections.abc import Callable, Sequence

_BLOCK = re.compile(r"(<!-- begin (?P<name>\w+)(?P<arguments>[^\n]*?) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)

Writer = Callable[[tuple[str, ...]], str]
"""Makes the text of one block from the arguments in its first comment."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or the sentence "Not measured yet." when there is no row."""
    if not rows:
        return "Not measured yet."
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))


def blocks(document: str) -> list[str]:
    """The names of the document's blocks, in order."""
    return [match["name"] for match in _BLOCK.finditer(document)]


def with_blocks(document: str, writer_of: Callable[[str], Writer | None]) -> str:
    """Return `document` with new blocks. A block for which `writer_of(name)` is None does not change."""

    def written(match: re.Match[str]) -> str:
        writer = writer_of(match["name"])
        if writer is None:
            return match[0]
        return f"{match[1]}{writer(tuple(match['arguments'].split()))}\n{match[4]}"

    return _BLOCK.sub(written, document)

"""Write the tables of a document from measured JSON files: `python -m lipsync_server.bench.tables docs/performance.md`.

A table is in a block (lipsync_server/markdown.py) that begins with `<!-- begin NAME FILE.json -->`. The files are in
the folder performance/ beside the document. A document whose tables share files names them once, in
`<!-- files: A.json B.json -->`. If several files have the same section, the last file counts. A test compares the
documents with the files. Measures nothing.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lipsync_server.bench.finishing_tables import TABLES as FINISHING
from lipsync_server.bench.infinitetalk.other_cards import TABLES as OTHER_CARDS
from lipsync_server.bench.infinitetalk.tables import TABLES as INFINITETALK
from lipsync_server.bench.machine import Machine
from lipsync_server.bench.sadtalker.tables import TABLES as SADTALKER
from lipsync_server.card_speeds import read_card_speeds
from lipsync_server.markdown import Writer, table, with_blocks

Numbers = Mapping[str, Any]
TABLES: dict[str, Callable[[Numbers, Numbers], str]] = {
    **INFINITETALK,
    **OTHER_CARDS,
    **SADTALKER,
    **FINISHING,
}
_REFERENCE = "reference-h100.json"
_FILES = re.compile(r"<!-- files: ([^\n]*?) -->")
_HEADERS = ("machine", "environment")


def with_tables(document: str, folder: Path) -> str:
    """`document` with every table written anew from the files in `folder`.

    A table whose own file is missing becomes "Not measured yet.". Raises ValueError for an unknown table or a table
    without a file, and OSError if a file of the line `files:` is missing.
    """
    named = _FILES.search(document)
    shared = {file: _load(folder / file) for file in named[1].split()} if named else {}
    path = folder / _REFERENCE
    reference = _load(path) if path.exists() else {}

    def writer_of(name: str) -> Writer:
        if name not in (*TABLES, "files"):
            raise ValueError(f"there is no table {name}; there are {', '.join(TABLES)} and files")

        def write(arguments: tuple[str, ...]) -> str:
            if not (arguments or shared):
                raise ValueError(f"table {name} needs a file: <!-- begin {name} FILE.json -->")
            if not arguments:
                return _files(shared) if name == "files" else TABLES[name](_merged(shared), reference)
            own = {file: _load(folder / file) for file in arguments if (folder / file).exists()}
            if not own:
                return table((), ())
            links = ", ".join(f"[{file}](performance/{file})" for file in own)
            return f"{TABLES[name](_merged(own), reference)}\n\n{links}"

        return write

    return with_blocks(document, writer_of)


def _load(path: Path) -> dict[str, Any]:
    """The sections of a file, without the sections that could not be measured on its machine.

    A file of `lipsync bench --share` becomes one entry of the section "shared".
    """
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "speeds" in found:
        return {"shared": [read_card_speeds(path).model_dump(mode="json")]}
    return {name: value for name, value in found.items() if not (isinstance(value, dict) and "missing" in value)}


def _merged(runs: Mapping[str, Numbers]) -> dict[str, Any]:
    """The sections of all files. Of sections with one name the last counts; all entries of "shared" are kept."""
    merged: dict[str, Any] = {}
    for numbers in runs.values():
        shared = [*merged.get("shared", []), *numbers.get("shared", [])]
        merged |= numbers
        if shared:
            merged["shared"] = shared
    return merged


def _files(runs: Mapping[str, Numbers]) -> str:
    """A row for each file: its machine, and its sections that count."""
    rows = []
    for index, (file, numbers) in enumerate(runs.items()):
        machine = Machine.of(numbers)
        later = {section for other in list(runs.values())[index + 1 :] for section in other}
        sections = [name for name, value in numbers.items() if isinstance(value, dict) and name not in later]
        counted = ", ".join(name for name in sections if name not in _HEADERS)
        card = machine.card
        if machine.cards > 1:
            card += f"; {machine.cards} of one host were at work at once, each with sections of its own"
        rows.append((f"[{file}](performance/{file})", card, machine.software_line, counted))
    return table(("file", "card", "software", "sections"), rows)


def main() -> None:
    """Rewrite the tables of the document on the command line."""
    path = Path(sys.argv[1])
    document = path.read_text(encoding="utf-8")
    path.write_text(with_tables(document, path.parent / "performance"), encoding="utf-8")


if __name__ == "__main__":
    main()

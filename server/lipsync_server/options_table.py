"""Writes docs/options.md's tables from the code: `python -m lipsync_server.options_table PAGE`.

The page has a block `options ENGINE` for each engine of this project, made from its options model, and the blocks of
weights_table.py about model files. A test compares the page with the code. `lipsync engines` and the page at /docs use
the same words. Knows no engine by name.
"""

import sys
from pathlib import Path
from typing import get_args

from lipsync_server.engines.base import EngineOptions
from lipsync_server.engines.registry import ENGINES, SHIPPED
from lipsync_server.markdown import Writer, blocks, table, with_blocks
from lipsync_server.schema_words import field_lines
from lipsync_server.weights_table import BLOCKS

BLOCK = "options"


def options_table(engine: str) -> str:
    """A Markdown table of the options of one engine, one row each, in the order of the code."""
    model = ENGINES.options_model(engine)
    by_preset = _defaults_by_preset(model)
    rows = []
    for line in field_lines(model.model_json_schema()):
        default = f"`{line.default}`" if line.default else by_preset.get(line.name, "")
        rows.append((f"`{line.name}`", line.kind, default, line.description, model.effects.get(line.name, "")))
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return table(("option", "type and range", "default", "what it does", "speed and quality"), cells)


def _defaults_by_preset(model: type[EngineOptions]) -> dict[str, str]:
    """By option: the default of each preset in words, as "quality 7 (720p: 11), balanced 2". {} without presets."""
    fields = model.model_fields
    if "preset" not in fields:
        return {}
    resolutions = get_args(fields["resolution"].annotation) if "resolution" in fields else ()
    words: dict[str, list[str]] = {}
    for preset in get_args(fields["preset"].annotation):
        usual = model.model_validate({"preset": preset}).preset_values()
        for name, value in usual.items():
            others = [
                f"{resolution}: {other:g}"
                for resolution in resolutions
                if (other := model.model_validate({"preset": preset, "resolution": resolution}).preset_values()[name])
                != value
            ]
            more = f" ({', '.join(others)})" if others else ""
            words.setdefault(name, []).append(f"{preset} {value:g}{more}")
    return {name: ", ".join(each) for name, each in words.items()}


def with_options(document: str) -> str:
    """`document` with every block written again. Raises ValueError if the block of an engine or table is missing."""
    for name in SHIPPED:
        if f"<!-- begin {BLOCK} {name} -->" not in document:
            raise ValueError(f"the document needs the lines <!-- begin {BLOCK} {name} --> and <!-- end {BLOCK} -->")
    for name in BLOCKS.keys() - set(blocks(document)):
        raise ValueError(f"the document needs the lines <!-- begin {name} --> and <!-- end {name} -->")

    def writer_of(block: str) -> Writer | None:
        return (lambda arguments: options_table(arguments[0])) if block == BLOCK else BLOCKS.get(block)

    return with_blocks(document, writer_of)


def main() -> None:
    """Rewrite the tables of the page on the command line."""
    path = Path(sys.argv[1])
    path.write_text(with_options(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""`lipsync engines`: which engines run on this machine, why the others do not, and the options of one."""

from typing import Annotated

import typer

from lipsync_server.cli import console


def register(app: typer.Typer) -> None:
    app.command()(engines)


def engines(
    engine: Annotated[str | None, typer.Argument(help="Show the options of this engine.", show_default=False)] = None,
) -> None:
    """List the engines, whether they run here and what they need; with ENGINE, list its options."""
    with console.errors_as_sentences():
        if engine is None:
            _list_all()
        else:
            _list_options(engine)


def _list_all() -> None:
    from rich.console import Console
    from rich.markup import escape

    from lipsync_server.engines import registry

    settings = console.settings_from({})
    out = Console(soft_wrap=True, highlight=False)
    for info in registry.describe(settings):
        state = f"runs here, on {info.device}" if info.available else "does not run here"
        out.print(f"[bold]{info.name}[/] {state}: {escape(info.title)}")
        if info.reason and not info.available:
            out.print(f"    {escape(info.reason)}")
    out.print("\nThe options of one: lipsync engines preview")


def _list_options(engine: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from lipsync_server.engines import registry

    table = Table()
    for title in ("option", "values", "default", "meaning"):
        table.add_column(title, no_wrap=title == "option")
    for name, schema in registry.options_model(engine).model_json_schema()["properties"].items():
        default = schema.get("default")
        table.add_row(name, _values(schema), "" if default is None else str(default), schema.get("description", ""))
    out = Console(highlight=False, markup=False)
    out.width = max(out.width, 110)
    out.print(table)
    out.print(f"For example: lipsync render photo.jpg voice.wav --engine {engine} --option seed=7")


def _values(schema: dict[str, object]) -> str:
    """The values that an option takes, from its JSON schema: `fast, quality`, `0 to 1`, or its type."""
    branches = schema.get("anyOf")
    if isinstance(branches, list):
        named = [branch for branch in branches if branch.get("type") != "null"]
        return _values(named[0]) if named else ""
    if isinstance(choices := schema.get("enum"), list):
        return ", ".join(map(str, choices))
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    if least is not None and most is not None:
        return f"{least} to {most}"
    kind = str(schema.get("type", ""))
    words = {"integer": "whole number", "boolean": "true or false", "string": "text", "array": "list"}.get(kind, kind)
    return f"{words}, {least} or more" if least is not None else words

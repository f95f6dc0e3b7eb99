"""`lipsync engines`: lists the engines that run on this machine, why the others cannot, and the options of one."""

from typing import Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.settings import Settings


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(engines)


def engines(
    engine: Annotated[str | None, typer.Argument(help="Show the options of this engine.", show_default=False)] = None,
) -> None:
    """List the engines and whether they run here; with ENGINE, list the options of that engine."""
    with console.errors_as_sentences():
        settings = console.settings_from({})
        if engine is None:
            _list_all(settings)
        else:
            _list_options(engine)


def _list_all(settings: Settings) -> None:
    """Print a line for each engine, and the reason below an engine that does not run here."""
    from rich.console import Console
    from rich.markup import escape

    from lipsync_server.engines import registry

    out = Console(soft_wrap=True, highlight=False)
    for info in registry.describe(settings):
        state = f"runs here, on {info.device}" if info.available else "does not run here"
        out.print(f"[bold]{info.name}[/] {state}: {escape(info.title)}")
        if info.reason and not info.available:
            out.print(f"    {escape(info.reason)}")
    out.print("\nThe options of one: lipsync engines preview")


def _list_options(engine: str) -> None:
    """Print a table of an engine's options."""
    from rich.console import Console
    from rich.table import Table

    from lipsync_server.engines import registry
    from lipsync_server.schema_words import field_lines

    table = Table()
    for title in ("option", "values", "default", "meaning"):
        table.add_column(title, no_wrap=title == "option")
    for field in field_lines(registry.options_model(engine).model_json_schema()):
        table.add_row(field.name, field.kind, field.default, field.description)
    out = Console(highlight=False, markup=False)
    out.width = max(out.width, 110)
    out.print(table)
    out.print(f"For example: lipsync render photo.jpg voice.wav --engine {engine} --option seed=7")


def option_list(engine: str) -> str:
    """The options of `engine` as help text, one per line."""
    from lipsync_server.engines import registry
    from lipsync_server.schema_words import field_lines

    lines = []
    for field in field_lines(registry.options_model(engine).model_json_schema()):
        sentences = [field.description, f"Default: {field.default}." if field.default else ""]
        lines.append(f"  {field.name} ({field.kind}): {' '.join(filter(None, sentences))}")
    return "\n".join(lines) + "\n"

"""`lipsync serve`: starts the server. Its flags are generated from the fields of Settings, so none is listed twice."""

import inspect
from pathlib import Path
from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from lipsync_server.cli import console
from lipsync_server.settings import Settings

_EPILOG = (
    "Every option is also an environment variable: --max-queue is LIPSYNC_MAX_QUEUE. A .env file in the current "
    "folder is read, too; a flag wins over a variable, a variable over the file."
)


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""

    def serve(**flags: object) -> None:
        with console.errors_as_sentences():
            notes: list[str] = []
            settings = console.settings_from(flags, warn=notes.append)
            from lipsync_server.http.serve import serve as serve_forever

            serve_forever(settings, notes=notes)

    serve.__doc__ = "Start the server."
    parameters = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name="serve", epilog=_EPILOG)(serve)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """The flag of one field of Settings. Its value stays text, which Settings parses; None when not given."""
    flag = "--" + name.replace("_", "-")
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType] or [field.annotation]
    is_switch = kinds == [bool]
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        help=f"{field.description}{_choices(field)}{_default(field)}",
        metavar=None if is_switch else _metavar(field),
        show_default=False,
    )
    kind = bool if is_switch else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _metavar(field: FieldInfo) -> str:
    """The placeholder for the value in the help: NUMBER, PATH or TEXT."""
    kinds = {int: "NUMBER", float: "NUMBER", Path: "PATH"}
    return next((kinds[kind] for kind in (field.annotation, *get_args(field.annotation)) if kind in kinds), "TEXT")


def _choices(field: FieldInfo) -> str:
    """A sentence with the allowed values; "" for a field without a list of values."""
    if get_origin(field.annotation) is not Literal:
        return ""
    return f" One of {', '.join(map(str, get_args(field.annotation)))}."


def _default(field: FieldInfo) -> str:
    """A sentence with the default; "" for a field without one."""
    value = field.default
    if value is None or value in ("", []):
        return ""
    shown = (
        ("on" if value else "off") if isinstance(value, bool) else f"{value:.15g}" if type(value) is float else value
    )
    return f" Default: {shown}."

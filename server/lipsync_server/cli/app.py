"""The `lipsync` command: registers one module per verb.

A verb imports heavy libraries only when it runs, so that `lipsync --help` answers at once.
"""

import sys
from typing import Annotated

import typer

from lipsync_server.cli import bench, check, cloud, cost, demo, doctor, engines, render, selftest, serve, weights
from lipsync_server.version import __version__

app = typer.Typer(
    name="lipsync",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

NEED_UNIX = ("serve", "render", "demo", "bench", "selftest")
"""Verbs that start worker processes, whose locks (fcntl), limits (resource) and signals only Unix has."""


def print_version(asked: bool) -> None:
    """Print the version and end the program, if the flag is given."""
    if asked:
        typer.echo(f"lipsync {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Make a talking video from a picture of a person and a voice recording."""
    if sys.platform == "win32" and context.invoked_subcommand in NEED_UNIX:
        typer.echo(
            f"Error: `lipsync {context.invoked_subcommand}` needs Linux or macOS, for file locks, signals and memory "
            "limits that Windows lacks. Use Docker or WSL on this computer, or rent a machine with `lipsync cloud up`.",
            err=True,
        )
        raise typer.Exit(2)


for verb in (serve, render, check, demo, selftest, doctor, engines, bench, weights, cost, cloud):
    verb.register(app)

"""The `lipsync` command: registers one module per verb.

A verb imports heavy libraries only when it runs, so that `lipsync --help` answers at once.
"""

from typing import Annotated

import typer

from lipsync_server import __version__
from lipsync_server.cli import bench, cloud, cost, demo, doctor, engines, render, serve, weights

app = typer.Typer(
    name="lipsync",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lipsync {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Make a talking video from a picture of a person and a voice recording."""


for verb in (serve, render, demo, doctor, engines, bench, weights, cost, cloud):
    verb.register(app)

"""The `lipsync` command: one module per verb, registered here.

Verbs import what they need when they run, so that `lipsync --help` answers at once.
"""

import typer

from lipsync_server.cli import bench, cloud, cost, demo, render, serve, weights

app = typer.Typer(
    name="lipsync",
    help="Make the person on a picture say what is in a recording.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for verb in (serve, render, demo, bench, weights, cost, cloud):
    verb.register(app)

"""`lipsync check`: whether a finished video can be published, without a server and without an engine."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from lipsync_server.cli import console

EXIT_BELOW = 3
"""Exit status for a score below --bar."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(check)


def check(
    video: Annotated[Path, typer.Argument(help="The video: MP4, MOV or WebM with sound.", show_default=False)],
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write a contact sheet: pictures, the mouth's curve, findings.", metavar="OUT.jpg"),
    ] = None,
    bar: Annotated[
        float | None,
        typer.Option(help=f"End with status {EXIT_BELOW} for a score below this, such as 0.6.", min=0, max=1),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
) -> None:
    """Check whether the mouth follows the speech, and look for faults of picture and sound."""
    with console.errors_as_sentences():
        from lipsync_server.check.video import check_file

        quality = check_file(video, sheet)
        if as_json:
            typer.echo(json.dumps({"video": str(video), **dataclasses.asdict(quality)}))
        else:
            from lipsync_server.check.quality import sentences

            for line in sentences(quality):
                typer.echo(line)
    if bar is not None and quality.score is not None and quality.score < bar:
        raise SystemExit(EXIT_BELOW)

"""`lipsync demo`: renders demo.mp4 from the portrait and the recording that the project ships."""

from pathlib import Path
from typing import Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.engines.registry import ENGINES


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(demo)


def demo(
    engine: Annotated[str | None, typer.Option(help=f"One of {', '.join(ENGINES.names)}.", show_default="auto")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.")] = Path("demo.mp4"),
) -> None:
    """Render the shipped sample to demo.mp4."""
    with console.errors_as_sentences():
        from lipsync_server.cli.job import CliJob, run_job
        from lipsync_server.paths import SAMPLES_DIR

        job = CliJob(SAMPLES_DIR / "portrait.jpg", SAMPLES_DIR / "speech.wav", output)
        result = run_job(job, console.settings_from({"engine": engine}))
        typer.echo(f"engine: {result.why}")
        console.show_result(result.engine, output, result.outcome)

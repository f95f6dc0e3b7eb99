"""`lipsync doctor`: checks this machine, and prints the findings with their advice."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.errors import WeightsError
from lipsync_server.settings import Settings

if TYPE_CHECKING:
    from lipsync_server.doctor.facts import Facts
    from lipsync_server.doctor.finding import Finding, Report

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[bold red]problem[/]"}


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    mbps: Annotated[
        float | None,
        typer.Option(min=0.1, help="Speed of the line in Mbit/s.", show_default="measured at the model hub"),
    ] = None,
) -> None:
    """Check driver, card, memory, disk, ports and weights, and say what to change.

    Ends with status 1 when no engine can render here.
    """
    with console.errors_as_sentences():
        from lipsync_server.doctor.checks import examine
        from lipsync_server.doctor.facts import read_facts

        settings = console.settings_from({})
        facts = read_facts()
        report = examine(settings, facts=facts)
        findings = (*report.findings, _first_video(settings, facts, mbps))
        if as_json:
            shown = {"engine": report.engine, "findings": [asdict(finding) for finding in findings]}
            typer.echo(json.dumps(shown, indent=2))
        else:
            _print(report, findings)
        if not report.engine:
            raise typer.Exit(console.EXIT_FAILED)


def _first_video(settings: Settings, facts: "Facts", mbps: float | None) -> "Finding":
    """The time to the first video. The line is measured only if model files are missing and no speed was stated."""
    from lipsync_server.doctor import first_video
    from lipsync_server.doctor.finding import Finding
    from lipsync_server.weights.line_speed import measure_mbps
    from lipsync_server.weights.manifest import load_manifest

    manifest = load_manifest(settings.manifest)
    estimate = first_video.first_video(settings, manifest, facts, mbps or 1.0)
    if estimate is None or not estimate.missing_bytes or mbps is not None:
        return first_video.finding(estimate, mbps or 0.0, "stated")
    try:
        measured = asyncio.run(measure_mbps(manifest, estimate.profile))
    except WeightsError as error:
        return Finding("first video", "problem", f"{error.detail}.")
    return first_video.finding(first_video.first_video(settings, manifest, facts, measured), measured, "measured")


def _print(report: "Report", findings: "tuple[Finding, ...]") -> None:
    """Print the findings as a table, and the engine and the count of problems below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        advice = f"\n[bold]{escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(_MARKS[finding.state], finding.name, escape(finding.detail) + advice)
    out = Console(highlight=False)
    out.width = max(out.width, 100)
    out.print(table)
    n_problems = sum(finding.state == "problem" for finding in findings)
    engine = f"Engine {report.engine} makes the videos." if report.engine else "No engine can render here."
    out.print(f"{engine} Problems: {n_problems}.")

"""`lipsync bench`: how fast an engine is on this machine."""

import typer


def register(app: typer.Typer) -> None:
    """Register the verb."""

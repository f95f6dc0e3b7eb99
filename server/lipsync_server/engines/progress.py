"""Progress and cancelling of a render, in the form that loaders and loops of every engine use."""

from lipsync_server.engines.base import RenderContext, Report
from lipsync_server.errors import Cancelled


def reporting_to(context: RenderContext) -> Report:
    """A report of loading that goes to the job's progress. Raises Cancelled when the job is to stop."""

    def report(stage: str, done: float, total: float) -> None:
        stop_if_cancelled(context)
        context.progress("load", done, total, stage)

    return report


def stop_if_cancelled(context: RenderContext) -> None:
    """Raise Cancelled when the job is to stop."""
    if context.cancelled():
        raise Cancelled("The job was cancelled.")

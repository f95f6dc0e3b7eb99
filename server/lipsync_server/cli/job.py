"""One render from the command line: chooses the engine, renders in this process, shows the progress.

Shared by the verbs `render` and `demo`. The library renders; no scratch files and no half video are left behind.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from lipsync_server.cli.console import progress_bar, stoppable
from lipsync_server.engines.ask import Ask
from lipsync_server.library import Lipsync
from lipsync_server.settings import Settings
from lipsync_server.validation import invalid
from lipsync_server.workers.task import RenderOutcome


@dataclass(frozen=True)
class CliJob:
    """A render that was asked for on the command line."""

    image: Path
    audio: Path
    output: Path
    ask: Ask = field(default_factory=Ask)
    second_audio: Path | None = None


@dataclass(frozen=True)
class CliResult:
    engine: str
    why: str
    outcome: RenderOutcome


def ask_from(**values: object) -> Ask:
    """The wishes of the command line's flags; raises InvalidInput that names the flag and what is wrong with it."""
    try:
        return Ask.model_validate(values)
    except ValidationError as error:
        raise invalid(error, owner="the render", label=_flag, known=Ask.model_fields) from error


def _flag(name: str) -> str:
    return "--" + name.partition(".")[0].replace("_", "-")


def run_job(job: CliJob, settings: Settings) -> CliResult:
    """Render `job` with the engine that `settings.engine` means. Ctrl-C raises Cancelled. Raises LipsyncError."""
    with Lipsync.from_settings(settings) as engine, stoppable() as stopped, progress_bar() as show:
        outcome = engine.render_ask(
            job.image, job.audio, job.output, job.ask, job.second_audio, on_progress=show, cancelled=stopped
        )
        return CliResult(engine.name, engine.why, outcome)

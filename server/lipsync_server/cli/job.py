"""One render from the command line: picks the engine, renders in this process, displays the progress.

The verbs `render` and `demo` share this module; lipsync_server.render does the work. After an error or Ctrl-C neither
scratch files nor an unfinished video remain.
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
    """The arguments of a render from the command line."""

    image: Path
    audio: Path | None
    output: Path
    ask: Ask = field(default_factory=Ask)
    second_audio: Path | None = None
    sheet: Path | None = None


@dataclass(frozen=True)
class CliResult:
    """A finished render. why: the reason for the choice of the engine."""

    engine: str
    why: str
    outcome: RenderOutcome


def ask_from(**values: object) -> Ask:
    """The flags that were given, as one value; None stands for a flag that was left out.

    Raises InvalidInput that names the wrong flag and the error.
    """
    try:
        return Ask.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise invalid(error, owner="the render", label=_flag, model=Ask) from error


def _flag(name: str) -> str:
    """The flag of a field of Ask: "--face-box" for "face_box.0"."""
    return "--" + name.partition(".")[0].replace("_", "-")


def run_job(job: CliJob, settings: Settings) -> CliResult:
    """Render `job` with the engine that `settings.engine` selects. Raises LipsyncError; Cancelled after Ctrl-C."""
    with Lipsync.from_settings(settings) as engine, stoppable() as stopped, progress_bar() as show:
        outcome = engine.render_ask(
            job.image, job.audio, job.output, job.ask, job.second_audio,
            on_progress=show, cancelled=stopped, sheet=job.sheet,
        )  # fmt: skip
        return CliResult(engine.name, engine.why, outcome)

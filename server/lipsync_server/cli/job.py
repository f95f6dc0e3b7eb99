"""One render from the command line: chooses the engine, renders in this process, shows the progress.

Shared by the verbs `render` and `demo`. Knows the worker's render(); leaves no scratch files and no half video behind.
"""

import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from lipsync_server.cli.console import progress_bar, stoppable
from lipsync_server.engines import registry
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.options import choose_options
from lipsync_server.errors import InvalidInput
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import ProbeRecording
from lipsync_server.settings import Settings
from lipsync_server.validation import invalid
from lipsync_server.workers.render import render
from lipsync_server.workers.task import RenderOutcome, RenderTask


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
    for path in (job.image, job.audio, job.second_audio):
        if path is not None and not path.is_file():
            raise InvalidInput(f"There is no file {path}.")
    if job.output.suffix.lower() != ".mp4":
        raise InvalidInput(f"The output is an MP4 video: name it {job.output.with_suffix('.mp4')}.")
    if job.output.is_dir():
        raise InvalidInput(f"{job.output} is a folder; name a file in it.")
    engine, why = registry.choose(settings)
    choose_options(engine, registry.options_model(engine), job.ask, settings)
    with (
        closing(DecoderPool(n_warm=1)) as decoders,
        tempfile.TemporaryDirectory(prefix="lipsync-") as scratch,
        stoppable() as stopped,
        progress_bar() as show,
    ):
        for audio in (job.audio, job.second_audio):
            if audio is not None:
                decoders.run(ProbeRecording(audio, settings.min_audio_s, settings.max_audio_s))
        task = RenderTask(
            task_id="cli",
            engine=engine,
            image=job.image,
            audio=job.audio,
            output=job.output,
            scratch=Path(scratch),
            ask=job.ask,
            second_audio=job.second_audio,
        )
        loaded = registry.create(engine, settings)
        try:
            outcome = render(loaded, task, show, stopped, settings, decoders=decoders)
        finally:
            loaded.close()
    return CliResult(engine, why, outcome)

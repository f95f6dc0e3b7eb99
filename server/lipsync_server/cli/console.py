"""Terminal input and output that all verbs share: errors with an exit status, settings from flags, a progress bar.

Knows rich and the error family; knows no verb.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import Cancelled, EngineUnavailable, InvalidInput, LipsyncError
from lipsync_server.settings import Settings, unknown_variables
from lipsync_server.validation import invalid, show

if TYPE_CHECKING:  # imports numpy, which would slow down every --help
    from lipsync_server.workers.task import ProgressEvent, RenderOutcome

EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130

_STAGE_NAMES = {
    "load": "loading",
    "preprocess": "looking and listening",
    "generate": "rendering",
    "encode": "writing",
    "check": "checking",
}


def fail(sentence: str, status: int) -> NoReturn:
    """Print `sentence` to the error stream and end the program."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]Error:[/]", _plain(sentence))
    raise SystemExit(status)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """End the program with the sentence of a LipsyncError. Status 2: bad input, 1: other errors, 130: Ctrl-C."""
    try:
        yield
    except (Cancelled, KeyboardInterrupt):
        fail("Stopped.", EXIT_INTERRUPTED)
    except LipsyncError as error:
        fail(error.detail, EXIT_INPUT if error.status < 500 else EXIT_FAILED)


def settings_from(flags: dict[str, object], *, warn: Callable[[str], None] | None = None) -> Settings:
    """The settings from the environment and .env, overridden by the flags that are not None.

    warn: called with a sentence for each LIPSYNC_* name that is no setting; by default the sentence is printed.
    """
    from pydantic import ValidationError

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        raise invalid(error, owner="the server", noun="setting", label=_setting) from error
    try:
        ENGINES.check_name(settings.engine)
    except EngineUnavailable as error:
        setting = f"S{_setting('engine')[1:]} cannot be {show(settings.engine)}"
        raise InvalidInput(f"{setting}. {error.detail}", field="engine") from error
    for sentence in unknown_variables(os.environ):
        (warn or _note)(sentence)
    return settings


def _note(sentence: str) -> None:
    """Print a note to the error stream."""
    typer.echo(f"Note: {sentence}", err=True)


def _setting(name: str) -> str:
    """The name of a setting for a message: its flag and its variable."""
    field = name.partition(".")[0].lower().removeprefix("lipsync_")
    return f"setting --{field.replace('_', '-')} (LIPSYNC_{field.upper()})"


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after Ctrl-C or SIGTERM. A second signal ends the program at once."""
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar() -> Iterator[Callable[["ProgressEvent"], None]]:
    """Yield the function that displays a render's progress: a bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("starting", total=1.0, note="")

        def show(event: "ProgressEvent") -> None:
            name = _STAGE_NAMES.get(event.stage, event.stage)
            progress.update(bar, completed=event.fraction, description=name, note=event.note)

        yield show


def show_result(engine: str, output: Path, outcome: "RenderOutcome") -> None:
    """Print the result of a render: path, length, speed and warnings."""
    from rich.console import Console

    ratio = outcome.render_s / outcome.duration_s
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"[bold]{_plain(str(output))}[/]: {outcome.duration_s:.2f} s, {outcome.width}x{outcome.height}, "
        f"{outcome.n_frames} frames, {outcome.size_bytes / 1e6:.1f} MB"
    )
    console.print(f"engine {engine}: {outcome.render_s:.1f} s of work, {ratio:.2f} seconds of work per second of video")
    if outcome.quality is not None:
        from lipsync_server.check.quality import sentences

        for line in sentences(outcome.quality):
            console.print("check:", _plain(line))
    for warning in outcome.warnings:
        console.print("[yellow]Note:[/]", _plain(warning))


def _plain(sentence: str) -> str:
    """`sentence` with its square brackets escaped, because rich reads them as markup."""
    from rich.markup import escape

    return escape(sentence)

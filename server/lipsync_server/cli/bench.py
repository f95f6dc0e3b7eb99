"""`lipsync bench`: measures the speed of an engine on this machine, and the cost of that speed.

There are three kinds of benchmark: whole renders with the real model files (bench/whole_runs.py), with
--random-weights single sections of an engine at its published size (bench/engines.py), and with --finishing the parts
that finish a video (bench/finishing.py). This module presents the figures; it measures nothing.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.cli.options import key_values
from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import InvalidInput

if TYPE_CHECKING:
    from lipsync_server.bench.machine import Machine
    from lipsync_server.bench.whole_runs import Plan, Run

DURATIONS_S = "5,30,60,120,240"
SHARED_DURATIONS_S = "4,30"
"""The lengths of sound with --share: a short job that compiles, and then the measured job."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(bench)


def bench(
    durations: Annotated[str, typer.Option(help="Seconds of sound, separated by commas.")] = DURATIONS_S,
    engine: Annotated[str | None, typer.Option(help=f"One of {', '.join(ENGINES.names)}.", show_default="auto")] = None,
    image: Annotated[Path | None, typer.Option(help="The picture.", show_default="the shipped portrait")] = None,
    audio: Annotated[
        Path | None, typer.Option(help="The recording, repeated to each length.", show_default="the shipped recording")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the engine; may be given several times.", metavar="KEY=VALUE")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each length; the median is shown.")] = 1,
    price: Annotated[float | None, typer.Option(min=0, help="Price of this machine per hour, for cost.")] = None,
    via_http: Annotated[
        bool, typer.Option("--via-http", help="Measure a warm server from POST to last byte, with its worker's memory.")
    ] = False,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Without model files: sections of an engine that computes with torch, at full size.",
        ),
    ] = False,
    only: Annotated[str, typer.Option(help="With --random-weights: sections, separated by commas.")] = "",
    scratch: Annotated[
        Path | None,
        typer.Option(help="With --random-weights: folder for files, up to 50 GB.", show_default="a temporary one"),
    ] = None,
    cards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --random-weights: measure on so many GPUs at once; 1: one after the other in this process.",
            show_default="all visible",
        ),
    ] = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="With --scratch: keep the random model files for the next run.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="With --random-weights: start no section after so many seconds.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="With --random-weights: tiny sizes, for a dry run.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
    finishing: Annotated[
        bool,
        typer.Option(
            "--finishing",
            help="Measure check, marks, captions, shapes, loudness, poster and speech on the shipped sample.",
        ),
    ] = False,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Measure a warm server and write lipsync-speed-CARD-ENGINE.json, to send back or for the bill.",
        ),
    ] = False,
) -> None:
    """Measure an engine's speed with recordings of several lengths."""
    with console.errors_as_sentences():
        if random_weights:
            if share:
                raise InvalidInput("--share needs the real model files; leave out --random-weights.")
            with tempfile.TemporaryDirectory(prefix="lipsync-bench-") as folder:
                _measure_sections(engine, scratch or Path(folder), only, json_path, tiny, cards, keep_files, budget)
            return
        if finishing:
            if share or via_http or image or audio or option or durations != DURATIONS_S:
                raise InvalidInput(
                    "--finishing measures the shipped picture and recording with the engine's own defaults; give only "
                    "--engine, --repeat and --json with it."
                )
            _measure_finishing(engine, repeat, json_path)
            return
        asked_durations = SHARED_DURATIONS_S if share and durations == DURATIONS_S else durations
        whole = _WholeRuns(engine, image, audio, _durations(asked_durations), repeat, key_values(option or []), price)
        _measure_whole_runs(whole, json_path, via_http=via_http or share, share=share)


@dataclass(frozen=True)
class _WholeRuns:
    """The whole renders to measure, as the caller gave them. None: the setting, the shipped picture or recording.

    price: of this machine per hour.
    """

    engine: str | None
    image: Path | None
    audio: Path | None
    durations_s: tuple[float, ...]
    repeat: int
    options: dict[str, object]
    price: float | None


def _measure_whole_runs(asked: _WholeRuns, json_path: Path | None, *, via_http: bool, share: bool) -> None:
    """Measure whole renders with the real model files, and print, share and store the figures."""
    from lipsync_server.bench import whole_runs
    from lipsync_server.bench.machine import Machine
    from lipsync_server.engines.ask import Ask
    from lipsync_server.engines.options import choose_options
    from lipsync_server.paths import SAMPLES_DIR

    settings = console.settings_from({"engine": asked.engine})
    name, why = ENGINES.choose(settings)
    plan = whole_runs.Plan(
        engine=name,
        image=asked.image or SAMPLES_DIR / "portrait.jpg",
        audio=asked.audio or SAMPLES_DIR / "speech.wav",
        durations_s=asked.durations_s,
        repeat=asked.repeat,
        options=asked.options,
    )
    chosen = choose_options(name, ENGINES.options_model(name), Ask(options=dict(plan.options)), settings)
    machine = Machine.here()
    runs: list[Run] = []
    for run in whole_runs.over_http(plan) if via_http else whole_runs.in_processes(plan):
        runs.append(run)
        typer.echo(
            f"{run.duration_s:g} s of sound: {run.wall_s:.1f} s, {run.wall_s / run.duration_s:.2f} s per second",
            err=True,
        )
    medians = whole_runs.medians(runs)
    price_per_hour = asked.price if asked.price is not None else settings.price_per_hour
    why += "; measured over HTTP, warm" if via_http else "; each run in a process of its own"
    _print_table(why, machine, medians, price_per_hour, settings.currency)
    if share:
        _share(machine, plan, chosen.options.model_dump(mode="json", exclude_none=True), runs)
    if json_path is not None:
        report = {
            "machine": machine.numbers,
            "engine": name,
            "measured": why,
            "via_http": via_http,
            "price_per_hour": price_per_hour,
            "currency": settings.currency,
            "medians": [asdict(run) for run in medians],
            "runs": [asdict(run) for run in runs],
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _share(machine: "Machine", plan: "Plan", options: dict[str, object], runs: "list[Run]") -> None:
    """Write this card's speed into the present folder. options: every option of the engine in this run."""
    from lipsync_server.bench.share import card_speeds, write_share

    named: dict[str, object] = {key: options[key] for key in ("preset", "size", "resolution") if key in options}
    found = card_speeds(machine, plan.engine, {**named, **plan.options}, runs, datetime.now(UTC).date())
    typer.echo(f"{write_share(found, Path.cwd())}: this card's measured speed; send it to the project")


def _measure_sections(
    engine: str | None,
    scratch: Path,
    only: str,
    json_path: Path | None,
    tiny: bool,
    cards: int | None,
    keep_files: bool,
    budget_s: float | None,
) -> None:
    """Measure the sections of an engine with random weights."""
    from lipsync_server.bench.engines import measure_of
    from lipsync_server.bench.sections import SectionRun, torch_device

    measure = measure_of(engine)
    device = torch_device(console.settings_from({}).device)
    measure(SectionRun(device, scratch, only, json_path, tiny, cards, keep_files, budget_s))


def _measure_finishing(engine: str | None, repeat: int, json_path: Path | None) -> None:
    """Measure the parts that finish a video, and print their table."""
    from lipsync_server.bench.finishing import measure, numbers_of
    from lipsync_server.bench.finishing_tables import finishing_table
    from lipsync_server.bench.machine import HEADER, Machine

    settings = console.settings_from({"engine": engine})
    name, _ = ENGINES.choose(settings)
    machine = Machine.here("cpu")
    parts = []
    for part in measure(settings.model_copy(update={"engine": name}), repeat):
        parts.append(part)
        typer.echo(f"{part.name}: {part.why_not or f'{part.wall_s:.3f} s for a second of video'}", err=True)
    found = numbers_of(parts, name)
    for key, value in machine.rows:
        typer.echo(f"{key}: {value}")
    typer.echo(f"load average at the end: {found['load_average']}\n\n{finishing_table(found)}")
    if json_path is not None:
        report = {HEADER: machine.numbers, "finishing": found}
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _durations(text: str) -> tuple[float, ...]:
    """The seconds in `text`, separated by commas. Raises InvalidInput."""

    try:
        durations = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        durations = ()
    if not durations or min(durations) <= 0:
        raise InvalidInput(f"--durations takes seconds separated by commas, for example 5,30,60; got {text!r}.")
    return durations


def _print_table(why: str, machine: "Machine", runs: "list[Run]", price_per_hour: float | None, currency: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for key, value in (*machine.rows, ("engine", why)):
        console.print(f"[dim]{key}:[/]", value, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ["sound s", "wall s", "load", "prep", "gener", "encode", "s per s", "RSS MB"]
    on_gpu = any(run.peak_gpu_bytes for run in runs)
    for heading in (*headings, *(["GPU MB"] if on_gpu else []), *([currency] if price_per_hour is not None else [])):
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for run in runs:
        cells = [f"{run.duration_s:g}", f"{run.wall_s:.2f}"]
        cells += [f"{run.stage_s.get(stage, 0):.2f}" for stage in ("load", "preprocess", "generate", "encode")]
        cells += [f"{run.wall_s / run.duration_s:.3f}", f"{run.peak_rss_bytes / 1e6:.0f}"]
        if on_gpu:
            cells.append(f"{run.peak_gpu_bytes / 1e6:.0f}")
        if price_per_hour is not None:
            cells.append(f"{run.wall_s * price_per_hour / 3600:.4f}")
        table.add_row(*cells)
    console.print(table)

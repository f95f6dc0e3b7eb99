"""`lipsync cost`: the cost of a month of videos at each provider, and the source of every figure."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsync_server.cli import console
from lipsync_server.cloud.costs.cost import DISK_GB, IDLE_STOP_MIN, STARTUP_MIN
from lipsync_server.errors import InvalidInput

if TYPE_CHECKING:
    from lipsync_server.cloud.costs.cost import MonthlyCost, Offer, Workload
    from lipsync_server.engines.datasheet import Speed


@dataclass(frozen=True)
class _Row:
    """One line of the bill: an offer, an engine with its preset, and the cost of a month."""

    speed: "Speed"
    month: "MonthlyCost"


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(cost)


def cost(
    videos: Annotated[int, typer.Option(min=1, help="Videos a month.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.2, help="Seconds of each video.")] = 40,
    engine: Annotated[str, typer.Option(help="Only this engine.", show_default="every one with a figure")] = "",
    preset: Annotated[str, typer.Option(help="Only this preset, or size or variant.", show_default="all")] = "",
    storage_gb: Annotated[float, typer.Option(min=0, help="Disk of the machine, in GB.")] = DISK_GB,
    provider: Annotated[str, typer.Option(help="Only vast, runpod or tensordock.", show_default="all")] = "",
    starts: Annotated[
        int | None,
        typer.Option("--starts", "--sessions", min=0, help="Starts.", show_default="once a video, 30 at most"),
    ] = None,
    startup_min: Annotated[float, typer.Option(min=0, help="Minutes from start to ready.")] = STARTUP_MIN,
    idle_min: Annotated[float, typer.Option(min=0, help="Minutes until the idle stop.")] = IDLE_STOP_MIN,
    speed: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of work per second of video, as lipsync bench measured it.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file or folder of `lipsync bench --share`; repeatable.", show_default="your speeds folder"
        ),
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Your own price per hour, as one more offer.")] = None,
    gpu: Annotated[str, typer.Option(help="The card of your own price.")] = "RTX 4090",
    storage_price: Annotated[float, typer.Option(min=0, help="Your own price per GB and month.")] = 0.10,
    currency: Annotated[str, typer.Option(help="Currency of every amount.")] = "USD",
    live: Annotated[bool, typer.Option("--live", help="Today's prices of the providers whose key is set.")] = False,
    rate: Annotated[float, typer.Option(min=0.000001, help="Units of that currency for one USD.")] = 1.0,
) -> None:
    """Compare the monthly cost of Vast.ai, TensorDock and RunPod: compute, storage, total."""
    with console.errors_as_sentences():
        from lipsync_server.cloud.costs.cost import Offer, Workload
        from lipsync_server.cloud.costs.measured import default_folder, measured_speeds

        if currency != "USD" and rate == 1.0:
            raise InvalidInput(f"--currency {currency} needs --rate, the units of {currency} for one USD", field="rate")
        load = Workload(
            videos, seconds, min(videos, 30) if starts is None else starts, startup_min, idle_min, storage_gb
        )
        offers, where = _offers(provider, live=live)
        if price is not None:
            offers.append(Offer("yours", gpu, price, storage_price, storage_price, "as given"))
        own = measured_speeds(measured or [], default_folder())
        rows = _rows(offers, load, engine, preset, speed, own)
        heading = (
            f"{_count(videos, 'video')} of {seconds:g} s, {_count(load.starts, 'start')} of {startup_min:g} + "
            f"{idle_min:g} min, {storage_gb:g} GB of disk; in {currency}; {where}"
        )
        _print(heading, rows, videos, rate, [*_without_figure(engine, own), *_notes(rows, load, currency, rate)])


def _offers(provider: str, *, live: bool) -> "tuple[list[Offer], str]":
    """The offers of `provider` ("": of all), and the source of their prices in words. live: ask the providers.

    Raises InvalidInput for an unknown provider.
    """
    from lipsync_server.cloud.costs.cost import DEFAULT_OFFERS, PRICES_AS_OF

    offers = list(DEFAULT_OFFERS)
    where = f"prices published by others, read on {PRICES_AS_OF}"
    if live:
        from lipsync_server.cloud.costs.prices import with_live_prices

        offers, names = with_live_prices(offers)
        is_dated = any(offer.provider not in names for offer in offers)
        where = f"live prices of {', '.join(names)}{f'; others: {where}' if is_dated else ''}"
    known_names = ", ".join(dict.fromkeys(offer.provider for offer in offers))
    offers = [offer for offer in offers if provider in ("", offer.provider)]
    if not offers:
        raise InvalidInput(f"There is no provider {provider!r}; there are: {known_names}.", field="provider")
    return offers, where


def _print(heading: str, rows: list[_Row], n_videos: int, rate: float, notes: list[str]) -> None:
    """Print the bill of `n_videos` a month. rate: units of the shown currency for one USD."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    titles = ("provider", "GPU", "engine, preset", "/h", "s/s", "speed is", "hours", "compute", "storage", "total")
    for title in (*titles, "a video"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        month = row.month
        money = (month.compute, month.storage, month.total, month.total / n_videos)
        table.add_row(
            month.offer.provider,
            month.offer.gpu,
            row.speed.setting,
            f"{month.offer.price_per_hour * rate:.2f}",
            f"{row.speed.seconds:g}",
            row.speed.origin,
            f"{month.hours:.1f}",
            *(f"{amount * rate:.2f}" for amount in money),
        )
    out = Console(soft_wrap=True, highlight=False)
    out.width = max(out.width, 125)  # a narrow or piped terminal must not cut the figures
    out.print(heading)
    out.print(table)
    for sentence in notes:
        out.print(sentence)


def _rows(
    offers: "list[Offer]", load: "Workload", engine: str, preset: str, speed: float | None, own: "list[Speed]"
) -> list[_Row]:
    """A row for each offer, engine and preset that has a figure. Raises InvalidInput if no row has a figure."""
    from lipsync_server.cloud.costs.cost import monthly_cost
    from lipsync_server.cloud.costs.speeds import SPEEDS, speeds_of
    from lipsync_server.engines.datasheet import Speed
    from lipsync_server.engines.registry import ENGINES

    known = dict.fromkeys((*ENGINES.entries, *(one.engine for one in (*SPEEDS, *own))))
    if engine and engine not in known and speed is None:
        raise InvalidInput(f"There is no engine {engine!r}; there are: {', '.join(known)}.", field="engine")
    rows = []
    for offer in offers:
        found = [
            one
            for one in speeds_of(offer.gpu, own)
            if engine in ("", one.engine) and (preset in ("", one.preset) or preset in one.preset.split())
        ]
        if speed is not None:
            found = [Speed(offer.gpu, engine or "yours", preset, speed, "measured", "by you (--speed)")]
        rows += [_Row(one, monthly_cost(offer, load, one.seconds)) for one in found]
    if not rows:
        wanted = f"{engine} {preset}".strip()
        elsewhere = dict.fromkeys(one.card for one in own if wanted and wanted in (one.engine, one.setting))
        raise InvalidInput(
            f"{wanted or offers[-1].gpu}: not measured on these cards. "
            + (
                f"You measured {', '.join(elsewhere)}, which these offers do not have; give --gpu and --price."
                if elsewhere
                else "Measure yours with `lipsync bench --share` and name its file with --measured, or give --speed."
            ),
            field="speed",
        )
    return rows


def _notes(rows: list[_Row], load: "Workload", currency: str, rate: float) -> list[str]:
    """The sentences below the table: sources, the cost of a start and of a forgotten machine, a recommendation."""
    from lipsync_server.cloud.costs.cost import forgotten_cost

    sources = dict.fromkeys(
        f"Speed, {row.speed.card}, {row.speed.setting}: {row.speed.origin}, {row.speed.source}." for row in rows
    )
    prices = dict.fromkeys(f"Price, {row.month.offer.provider}: {row.month.offer.note}." for row in rows)
    months = [row.month for row in rows]
    best = min(rows, key=lambda row: (not row.month.offer.stops_itself, _roughness(row), row.month.total))
    forgotten = sorted({forgotten_cost(month.offer) for month in months})
    start, offer = best.month.per_start, best.month.offer
    notes = [*sources, *prices]
    notes.append("Computed: hours = work + starts x (start-up + idle); total = hours x price + storage.")
    watched = dict.fromkeys(month.offer.provider for month in months if not month.offer.stops_itself)
    notes += [f"{name}: no idle stop there; its rows count on you to stop it at the same minute." for name in watched]
    notes.append(
        f"A machine that nobody stops costs {forgotten[0] * rate:.0f} to {forgotten[-1] * rate:.0f} {currency} a month."
        if len(forgotten) > 1
        else f"A machine that nobody stops costs {forgotten[0] * rate:.0f} {currency} a month."
    )
    notes.append(
        f"Recommended: {_count(load.videos, 'video')} of {load.seconds:g} s on {offer.gpu} at {offer.provider} with "
        f"{best.speed.setting}: about {best.month.total * rate:.2f} {currency} a month, of which "
        f"each start costs {start * rate:.2f} and the disk {best.month.storage * rate:.2f}; "
        "stop it with `lipsync cloud down`, and end the disk's cost with `lipsync cloud destroy`."
    )
    return notes


def _roughness(row: _Row) -> bool:
    """Sort key of the recommendation: whether the row differs from the engine and preset of `lipsync cloud up`."""
    from lipsync_server.cloud.costs.speeds import row_of_profile
    from lipsync_server.engines.recommended import best_profile
    from lipsync_server.weights.manifest import load_manifest

    usual = row_of_profile(load_manifest(), best_profile()[0], "balanced")
    return (row.speed.engine, row.speed.preset) != (usual.engine, usual.preset)


def _without_figure(engine: str, own: "list[Speed]") -> list[str]:
    """A sentence for each installed engine that needs a card and has no figure; [] if `engine` selects one engine."""
    from lipsync_server.cloud.costs.speeds import SPEEDS
    from lipsync_server.engines.registry import ENGINES

    known = {one.engine for one in (*SPEEDS, *own)}
    names = [] if engine else [name for name in ENGINES.entries if name not in known]
    return [
        f"{name}: not measured. Measure it with `lipsync bench --share --engine {name}`."
        for name in names
        if not ENGINES.data_sheet(name).runs_on_cpu
    ]


def _count(number: int, noun: str) -> str:
    """A number with its noun: "1 video", "30 videos"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""`lipsync cost`: compares the cost of a month of videos at each provider."""

from typing import Annotated

import typer

from lipsync_server.cli import console


def register(app: typer.Typer) -> None:
    app.command()(cost)


def cost(
    videos: Annotated[int, typer.Option(min=1, help="Videos a month.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.2, help="Seconds of each video.")] = 40,
    storage_gb: Annotated[float, typer.Option(min=0, help="Disk kept for weights and videos, in GB.")] = 40,
    sessions: Annotated[
        int | None,
        typer.Option(min=0, help="Starts of the machine.", show_default="once a video, 30 at most"),
    ] = None,
    startup_min: Annotated[float, typer.Option(min=0, help="Minutes from start to ready.")] = 3,
    idle_min: Annotated[float, typer.Option(min=0, help="Minutes until the idle stop.")] = 10,
    speed: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of work per second of video, as lipsync bench measured it.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Your own price per hour, as one more row.")] = None,
    storage_price: Annotated[float, typer.Option(min=0, help="Your own price per GB and month.")] = 0.10,
    currency: Annotated[str, typer.Option(help="Currency to show beside USD.")] = "USD",
    live: Annotated[bool, typer.Option("--live", help="Today's prices of the providers whose key is set.")] = False,
    rate: Annotated[float, typer.Option(min=0.000001, help="Units of that currency for one USD.")] = 1.0,
) -> None:
    """Compare the monthly cost of Vast.ai, TensorDock and RunPod: compute, storage, total."""
    with console.errors_as_sentences():
        from dataclasses import replace

        from rich.console import Console
        from rich.table import Table

        from lipsync_server.cloud.cost import DEFAULT_OFFERS, PRICES_AS_OF, Offer, Workload, monthly_cost
        from lipsync_server.errors import InvalidInput

        if currency != "USD" and rate == 1.0:
            raise InvalidInput(f"--currency {currency} needs --rate, the units of {currency} for one USD", field="rate")
        starts = min(videos, 30) if sessions is None else sessions
        load = Workload(videos, seconds, starts, startup_min, idle_min, storage_gb)
        offers = list(DEFAULT_OFFERS)
        where = f"default prices as read on {PRICES_AS_OF}"
        if live:
            from lipsync_server.cloud.prices import with_live_prices

            offers, names = with_live_prices(offers)
            where = f"live prices of {', '.join(names)}" + ("" if len(names) == 3 else f"; others: {where}")
        if price is not None:
            offers.append(Offer("yours", "-", price, storage_price, storage_price, speed or 22.0, "as given"))
        if speed is not None:
            offers = [replace(offer, seconds_per_second=speed) for offer in offers]
        table = Table()
        for title in ("provider", "GPU", "$/h", "s/s", "hours", "compute", "storage", "total", "per video"):
            table.add_column(title, no_wrap=True)
        for offer in offers:
            month = monthly_cost(offer, load)
            money = [month.compute, month.storage, month.total, month.total / videos]
            table.add_row(
                offer.provider,
                offer.gpu,
                f"{offer.price_per_hour:.2f}",
                f"{offer.seconds_per_second:g}",
                f"{month.hours:.1f}",
                *(f"{amount * rate:.2f}" for amount in money),
            )
        out = Console(soft_wrap=True, highlight=False)
        out.width = max(out.width, 100)  # keep the figures whole on a narrow or piped terminal
        out.print(
            f"{videos} videos of {seconds:g} s, {starts} starts of {startup_min:g} + {idle_min:g} min, "
            f"{storage_gb:g} GB kept; in {currency}; {where}"
        )
        out.print(table)
        out.print("hours x price + storage; --price, --speed and --storage-price put your own figures in.")

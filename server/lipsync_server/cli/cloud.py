"""`lipsync cloud offers | up | list | status | down | destroy | template`: a rented GPU from the command line."""

import asyncio
import secrets
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from lipsync_server import durations
from lipsync_server.cli import console
from lipsync_server.cli.rental import (
    chosen_offer,
    cost_of_a_start,
    cuda_for,
    has_image,
    how_long_it_stays,
    order_for,
    provider_named,
    ranked_offers,
    software_named,
    stock_is_faster,
)
from lipsync_server.cli.rented import show_status, start_and_wait
from lipsync_server.cli.selftest import EXIT_BAD
from lipsync_server.cli.selftest import REPORT as SELFTEST_REPORT
from lipsync_server.cli.selftest import run as run_selftest
from lipsync_server.cloud.costs.cost import DISK_GB, IDLE_STOP_MIN
from lipsync_server.engines.recommended import best_profile
from lipsync_server.errors import InvalidInput

if TYPE_CHECKING:
    from lipsync_server.cloud.machine import Machine
    from lipsync_server.cloud.remembered import RememberedMachine

_T = TypeVar("_T")
_PROFILE, _LEAST_GPU_BYTES = best_profile()
_LEAST_GPU_GB = _LEAST_GPU_BYTES / 2**30

ProviderName = Annotated[
    str, typer.Option("--provider", help="vast, runpod or tensordock.", show_default="the one whose key is set")
]
MachineId = Annotated[
    str,
    typer.Argument(metavar="[MACHINE]", help="The id that `up` printed.", show_default="the one that is remembered"),
]
Profile = Annotated[str, typer.Option(help="Weights to download there.")]
Image = Annotated[str, typer.Option(envvar="LIPSYNC_IMAGE", help="A Docker image of yours.", show_default="published")]
Source = Annotated[str, typer.Option(help="URL or path of a wheel or source archive for a stock image.")]
FromSource = Annotated[bool, typer.Option("--from-source", help="Build this checkout's wheel and send it there.")]
DiskGb = Annotated[int, typer.Option(min=10, help="Disk in GB; it cannot grow later.")]
IdleStop = Annotated[
    float, typer.Option(min=0, help="Minutes after the last collected video until it stops itself; 0: never.")
]
Env = Annotated[list[str], typer.Option("--env", metavar="KEY=VALUE", help="A variable for the machine; repeatable.")]

group = typer.Typer(help="Rent, watch, stop and return a GPU.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group of verbs to the command."""
    app.add_typer(group, name="cloud")


@group.command()
def offers(
    provider: ProviderName = "",
    gpu: Annotated[str, typer.Option(help="Part of a card's name, for example 4090.")] = "",
    min_memory_gb: Annotated[float, typer.Option(min=0, help="Least GPU memory.")] = _LEAST_GPU_GB,
    disk_gb: DiskGb = DISK_GB,
    seconds: Annotated[float, typer.Option(min=0.2, help="Length of the video that is priced.")] = 40,
    preset: Annotated[str, typer.Option(help="Preset of that video.")] = "balanced",
    profile: Profile = _PROFILE,
    image: Image = "",
    limit: Annotated[int, typer.Option(min=1, max=100, help="Rows.")] = 15,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file or folder of `lipsync bench --share`; repeatable.", show_default="your speeds folder"
        ),
    ] = None,
) -> None:
    """List machines for rent, cheapest first video first: price, line, reliability, and the cost of a video there."""
    with console.errors_as_sentences():
        from rich.console import Console
        from rich.table import Table

        from lipsync_server.cloud import published
        from lipsync_server.cloud.costs.cost import video_cost
        from lipsync_server.cloud.costs.measured import default_folder, measured_speeds
        from lipsync_server.cloud.costs.speeds import expected_speed, row_of_profile
        from lipsync_server.weights.manifest import load_manifest

        name, own = provider_named(provider), measured_speeds(measured or [], default_folder())
        row = row_of_profile(load_manifest(), profile, preset)
        ours, cuda = has_image(image), cuda_for(image)
        ranked = ranked_offers(name, cuda, gpu, min_memory_gb, disk_gb, seconds, preset, profile, own, has_image=ours)
        found = _run(ranked)[:limit]
        table = Table()
        titles = ("offer", "GPU", "GB", "$/h", "reliable", "Mbit/s", "first video", "next videos", "speed is", "where")
        for title in titles:
            table.add_column(title, no_wrap=True)
        sources = {}
        for one in found:
            offer, speed = one.offer, expected_speed(one.offer.gpu, row, own)
            if speed is not None:
                setting = f"{speed.card}, {speed.setting}"
                sources[f"{setting}: {speed.seconds:g} s a second, {speed.origin}: {speed.source}."] = True
            table.add_row(
                offer.offer_id,
                offer.gpu,
                f"{offer.memory_gb:.0f}",
                f"{offer.price_per_hour:.3f}",
                "-" if offer.reliability is None else f"{offer.reliability:.1%}",
                "-" if offer.download_mbps is None else f"{offer.download_mbps:.0f}",
                f"${one.cost:.2f}, {one.minutes:.0f} min",
                "-" if speed is None else f"${video_cost(seconds, speed.seconds, offer.price_per_hour):.3f}",
                "unknown" if speed is None else speed.origin,
                f"{offer.where} {one.doubt}".strip(),
            )
        out = Console(soft_wrap=True, highlight=False)
        out.width = max(out.width, 150)
        out.print(table if found else "Nothing of this kind is for rent there now.")
        out.print(
            f"Videos of {seconds:g} s. The first includes the download of {'the image' if ours else 'the packages'} "
            "and the weights, computed from the offer's line (200 Mbit/s where none is named); the next ones are on a "
            "machine that runs anyway."
        )
        if not ours:
            out.print("A host that has not PyTorch's image yet downloads it too; that is not counted.")
        elif found and (sentence := stock_is_faster(found[0], published.source_archive())):
            out.print(f"Offer {found[0].offer.offer_id}: {sentence}")
        for source in sources:
            out.print(source)


@group.command()
def up(
    offer: Annotated[
        str, typer.Argument(metavar="[OFFER]", help="An id that `offers` printed.", show_default="the best offer")
    ] = "",
    provider: ProviderName = "",
    machine: Annotated[str, typer.Option(help="Start this stopped machine again instead.")] = "",
    profile: Profile = _PROFILE,
    image: Image = "",
    source: Source = "",
    from_source: FromSource = False,
    gpu: Annotated[str, typer.Option(help="Part of the card's name, where no OFFER is given.")] = "",
    env: Env = [],  # noqa: B006 - typer reads it once
    disk_gb: DiskGb = DISK_GB,
    idle_stop: IdleStop = IDLE_STOP_MIN,
    token: Annotated[str, typer.Option(help="Bearer token; one is made when not given.", show_default=False)] = "",
    ssh_key: Annotated[Path | None, typer.Option(help="Public SSH key (TensorDock needs one).")] = None,
    wait_min: Annotated[float, typer.Option(min=1, help="Minutes to wait for the weights.")] = 60,
    yes: Annotated[bool, typer.Option("--yes", help="Rent the best offer without asking.")] = False,
    selftest: Annotated[bool, typer.Option("--selftest", help="Run `lipsync selftest` on the ready machine.")] = False,
) -> None:
    """Rent a machine, start the server there, wait until it is ready, and print its address and token."""
    with console.errors_as_sentences(), tempfile.TemporaryDirectory() as folder:
        from rich.console import Console

        from lipsync_server.cloud import published, remembered

        if offer and machine:
            raise InvalidInput("Give an OFFER to rent, or --machine to start one again, not both.", field="offer")
        out, path = Console(soft_wrap=True, highlight=False), remembered.default_path()
        known = remembered.find(path, machine, provider) if machine else None
        name = provider or (known.provider if known is not None else provider_named(""))
        price: float | None = known.price_per_hour if known is not None else None
        if machine:
            known = known or remembered.RememberedMachine(provider=name, machine_id=machine, token=token)
            order = None
        else:
            from lipsync_server.weights.manifest import load_manifest

            if profile:
                for notice in load_manifest().licence_notices(profile):
                    typer.echo(f"licence  {notice}")
            software = software_named(image, source, from_source, Path(folder))
            order = order_for(
                software, name, profile, token or secrets.token_urlsafe(24), disk_gb, idle_stop, ssh_key, env
            )
            ours = not software.script
            ranked = ranked_offers(
                name, order.min_cuda, gpu, _LEAST_GPU_GB, disk_gb, 40, "balanced", profile, has_image=ours
            )
            offer, price = chosen_offer(_run(ranked), offer, yes, published.source_archive())
            if price is not None:
                variables = {"LIPSYNC_PRICE_PER_HOUR": f"{price:g}", **order.environment}
                order = replace(order, environment=variables)
            wheel = "" if software.wheel is None else str(remembered.keep_wheel(path, software.wheel))
            made = order.environment["LIPSYNC_TOKENS"]
            known = remembered.RememberedMachine(
                provider=name, machine_id="", token=made, price_per_hour=price, profile=profile, wheel=wheel
            )

        ready = _run(start_and_wait(known, order, offer, software.wheel if order is not None else None, wait_min, out))
        out.print(f"address  {ready.url}")
        if (price := ready.price_per_hour or price) is not None:
            out.print(f"price    ${price:.3f} an hour: ${price * 730:.0f} for a month in which nobody stops it")
            out.print(f"a start  {cost_of_a_start(name, price, idle_stop)}")
        out.print(how_long_it_stays(name, idle_stop))
        out.print("In n8n: new credential, Lipsync API, with this address and the token.")
        if not selftest:
            out.print(f"A verdict on its weights in a minute: lipsync selftest --server {ready.url} --token TOKEN")
        elif not run_selftest(None, None, ready.url, known.token, SELFTEST_REPORT):
            out.print(f"The machine runs on. End its costs: lipsync cloud destroy --provider {name} {ready.machine_id}")
            raise SystemExit(EXIT_BAD)


@group.command("list")
def list_machines() -> None:
    """List every machine of your accounts, at each provider whose key is set, and the machines remembered here."""
    with console.errors_as_sentences():
        from rich.console import Console
        from rich.table import Table

        from lipsync_server.cloud import remembered
        from lipsync_server.cloud.rent import PROVIDERS, key_of
        from lipsync_server.cloud.rent import provider as open_provider

        async def ask(name: str) -> "list[Machine]":
            async with open_provider(name) as rented:
                return await rented.machines()

        table, path = Table(), remembered.default_path()
        for title in ("provider", "machine", "state", "$/h", "name", "token"):
            table.add_column(title, no_wrap=True)
        n_rows = 0
        names = [name for name in PROVIDERS if key_of(name)]
        if not names:
            provider_named("")
        for name in names:
            for machine in _run(ask(name)):
                price = "-" if machine.price_per_hour is None else f"{machine.price_per_hour:.3f}"
                kept = "remembered" if remembered.find(path, machine.machine_id, name) else "unknown here"
                table.add_row(name, machine.machine_id, machine.state, price, machine.label, kept)
                n_rows += 1
        out = Console(soft_wrap=True, highlight=False)
        out.width = max(out.width, 100)
        out.print(table if n_rows else f"No machine at {', '.join(names)}.")


@group.command()
def status(
    machine: MachineId = "",
    provider: ProviderName = "",
    show_token: Annotated[bool, typer.Option("--token", help="Print the token, too.")] = False,
) -> None:
    """Show a machine, or every remembered one: state, address as it is now, price, and when it stops itself."""
    with console.errors_as_sentences():
        from lipsync_server.cloud import remembered

        path = remembered.default_path()
        wanted = [_known(machine, provider)] if machine else remembered.remembered(path)
        if not wanted:
            typer.echo("No machine is remembered here. `lipsync cloud list` asks the providers.")
        for known in wanted:
            found = _run(show_status(known, show_token))
            if found.state == "gone":
                remembered.forget(path, known.provider, known.machine_id)


@group.command()
def keep(
    machine: MachineId = "",
    provider: ProviderName = "",
    minutes: Annotated[
        float, typer.Option(min=0, max=720, help="Minutes from now; 0 goes back to the idle stop alone.")
    ] = 30,
) -> None:
    """Keep a machine on for some minutes although nothing runs there; its idle stop comes after them."""
    with console.errors_as_sentences():
        from lipsync_server.cloud.rent import keep_machine
        from lipsync_server.cloud.rent import provider as open_provider

        known = _known(machine, provider)

        async def ask() -> float | None:
            async with open_provider(known.provider) as rented:
                found = await rented.state(known.machine_id)
            return await keep_machine(found.url, known.token, minutes)

        left_s = _run(ask())
        stays = "while its job or upload is not finished" if left_s is None else f"for {durations.countdown(left_s)}"
        typer.echo(f"machine {known.machine_id}: stays on {stays}")


@group.command()
def down(machine: MachineId = "", provider: ProviderName = "") -> None:
    """Stop a machine: the GPU costs nothing, the disk is kept and is still billed."""
    with console.errors_as_sentences():
        _act(_known(machine, provider), "stop", "stopped; its disk is kept and billed until `lipsync cloud destroy`")


@group.command()
def destroy(
    machine: MachineId = "",
    provider: ProviderName = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give a machine back: everything on it is deleted, and nothing costs any more."""
    with console.errors_as_sentences():
        from lipsync_server.cloud import remembered

        known = _known(machine, provider)
        if not yes:
            question = f"Delete machine {known.machine_id} with its weights and every video that lies only there?"
            typer.confirm(question, abort=True)
        _act(known, "destroy", "destroyed; nothing of it costs any more")
        remembered.forget(remembered.default_path(), known.provider, known.machine_id)


@group.command()
def template(
    provider: Annotated[str, typer.Option(help="vast, runpod or tensordock.", show_default=False)],
    profile: Profile = _PROFILE,
    image: Image = "",
    source: Source = "",
    env: Env = [],  # noqa: B006 - typer reads it once
    disk_gb: DiskGb = DISK_GB,
    idle_stop: IdleStop = IDLE_STOP_MIN,
    token: Annotated[str, typer.Option(help="Bearer token; one is made when not given.", show_default=False)] = "",
) -> None:
    """Print the fields of a provider's web form, with which you rent the same machine as `up` does. Needs no key."""
    with console.errors_as_sentences():
        from lipsync_server.cloud.template import template as fields_of

        software = software_named(image, source, False, Path())
        if software.wheel is not None:
            raise InvalidInput(
                "A template cannot send a file from here: give --source an https URL, or --image.", field="source"
            )
        made = token or secrets.token_urlsafe(24)
        order = order_for(software, provider, profile, made, disk_gb, idle_stop, None, env)
        for field, value in fields_of(provider, order).items():
            lines = value.rstrip("\n").splitlines()
            typer.echo(f"{field}: {lines[0]}" if len(lines) == 1 else f"{field}:\n" + "\n".join(lines))


def _act(known: "RememberedMachine", action: Literal["stop", "destroy"], done: str) -> None:
    """Stop or destroy a machine, and print the sentence `done`."""
    from lipsync_server.cloud.rent import provider as open_provider

    async def act() -> None:
        async with open_provider(known.provider) as rented:
            await rented.act(known.machine_id, action)

    _run(act())
    typer.echo(f"machine {known.machine_id}: {done}")


def _known(machine: str, provider: str) -> "RememberedMachine":
    """The machine for this command: the machine with the given id, or the only remembered one."""
    from lipsync_server.cloud import remembered

    path = remembered.default_path()
    if machine:
        found = remembered.find(path, machine, provider)
        return found or remembered.RememberedMachine(provider=provider_named(provider), machine_id=machine)
    every = [one for one in remembered.remembered(path) if provider in ("", one.provider)]
    if len(every) != 1:
        ids = ", ".join(one.machine_id for one in every) or "none"
        raise InvalidInput(f"Which MACHINE? Remembered here: {ids}.", field="machine")
    return every[0]


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine until it ends, and return its result."""
    return asyncio.run(work)

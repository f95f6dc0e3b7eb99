"""`lipsync cloud offers | up | status | down | destroy`: a rented GPU from the command line."""

import asyncio
import secrets
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from lipsync_server.cli import console

_T = TypeVar("_T")
ProviderName = Annotated[str, typer.Option("--provider", help="vast, runpod or tensordock.", show_default=False)]
MachineId = Annotated[str, typer.Argument(metavar="MACHINE", help="The id that `up` printed.")]

group = typer.Typer(help="Rent, watch, stop and return a GPU.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="cloud")


@group.command()
def offers(
    provider: ProviderName,
    gpu: Annotated[str, typer.Option(help="Part of a card's name, for example 4090.")] = "",
    min_memory_gb: Annotated[float, typer.Option(min=0, help="Least GPU memory.")] = 23,
    disk_gb: Annotated[int, typer.Option(min=1, help="Size of the disk, in GB.")] = 70,
    seconds: Annotated[float, typer.Option(min=0.2, help="Length of the video whose cost is shown, in seconds.")] = 40,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Rows.")] = 15,
) -> None:
    """List the machines for rent now: price, reliability, download speed, and the cost of a video."""
    with console.errors_as_sentences():
        from rich.console import Console
        from rich.table import Table

        from lipsync_server.cloud.cost import expected_speed, video_cost
        from lipsync_server.cloud.machine import RentOffer
        from lipsync_server.cloud.rent import provider as open_provider

        async def ask() -> list[RentOffer]:
            async with open_provider(provider) as rented:
                return await rented.offers(gpu=gpu, min_memory_gb=min_memory_gb, disk_gb=disk_gb, limit=limit)

        table = Table()
        for title in ("offer", "GPU", "GB", "$/h", "reliable", "Mbit/s", f"{seconds:g} s video", "where"):
            table.add_column(title, no_wrap=True)
        found = _run(ask())
        for offer in found:
            speed = expected_speed(offer.gpu)
            table.add_row(
                offer.offer_id,
                offer.gpu,
                f"{offer.memory_gb:.0f}",
                f"{offer.price_per_hour:.3f}",
                "-" if offer.reliability is None else f"{offer.reliability:.1%}",
                "-" if offer.download_mbps is None else f"{offer.download_mbps:.0f}",
                "-" if speed is None else f"${video_cost(seconds, speed, offer.price_per_hour):.3f}",
                offer.where,
            )
        out = Console(soft_wrap=True, highlight=False)
        out.width = max(out.width, 130)
        out.print(table if found else "There is no such machine for rent now.")
        out.print("Cost per video on a machine that is already running; `-` where this card's speed was not measured.")


@group.command()
def up(
    provider: ProviderName,
    offer: Annotated[str | None, typer.Argument(metavar="OFFER", help="An id from `lipsync cloud offers`.")] = None,
    machine: Annotated[str | None, typer.Option(help="Start this stopped machine again instead.")] = None,
    profile: Annotated[str, typer.Option(help="Weights profile to download.")] = "infinitetalk-int8-fast",
    image: Annotated[
        str | None, typer.Option(envvar="LIPSYNC_IMAGE", help="The Docker image that you built and pushed.")
    ] = None,
    disk_gb: Annotated[int, typer.Option(min=10, help="Disk in GB; it cannot grow later.")] = 70,
    idle_stop: Annotated[float, typer.Option(min=0, help="Minutes without work until it stops itself.")] = 15,
    token: Annotated[str | None, typer.Option(help="Bearer token; made when not given.")] = None,
    ssh_key: Annotated[Path | None, typer.Option(help="Public SSH key (TensorDock needs one).")] = None,
    wait_min: Annotated[float, typer.Option(min=1, help="Minutes to wait for the weights.")] = 60,
) -> None:
    """Rent OFFER, start the server there, wait until it is ready, and print its address and token."""
    with console.errors_as_sentences():
        from rich.console import Console

        from lipsync_server.cloud.machine import Machine
        from lipsync_server.cloud.rent import provider as open_provider
        from lipsync_server.cloud.rent import wait_until_ready
        from lipsync_server.errors import InvalidInput
        from lipsync_server.weights.manifest import load_manifest

        if (offer is None) == (machine is None):
            raise InvalidInput("Give an OFFER to rent, or --machine to start one again.", field="offer")
        if profile:
            load_manifest().profile(profile)
        made = token or secrets.token_urlsafe(24)
        out = Console(soft_wrap=True, highlight=False)

        async def rent() -> Machine:
            async with open_provider(provider) as rented:
                if machine is not None:
                    await rented.act(machine, "start")
                    machine_id = machine
                else:
                    assert offer is not None
                    order = _order(image, profile, made, disk_gb, idle_stop if provider != "tensordock" else 0, ssh_key)
                    machine_id = await rented.create(offer, order)
                    out.print(f"token    {made}")
                out.print(f"machine  {machine_id}: costs from now on, until `lipsync cloud down` or `destroy`")
                with out.status("starting") as status:
                    return await wait_until_ready(
                        rented, machine_id, start_limit_s=900, ready_limit_s=wait_min * 60, show=status.update
                    )

        ready = _run(rent())
        out.print(f"address  {ready.url}")
        if ready.price_per_hour is not None:
            out.print(f"price    ${ready.price_per_hour:.3f} an hour")
        out.print("In n8n: new credential, Lipsync API, with this address and the token.")


@group.command()
def status(provider: ProviderName, machine: MachineId) -> None:
    """Show a machine: its state, its current address, its price, and whether the server is ready."""
    with console.errors_as_sentences():
        from lipsync_server.cloud.machine import Machine
        from lipsync_server.cloud.rent import Readiness, readiness
        from lipsync_server.cloud.rent import provider as open_provider

        async def ask() -> tuple[Machine, Readiness | None]:
            async with open_provider(provider) as rented:
                found = await rented.state(machine)
            return found, await readiness(found.url) if found.state == "running" and found.url else None

        found, said = _run(ask())
        price = "" if found.price_per_hour is None else f", ${found.price_per_hour:.3f} an hour"
        typer.echo(f"machine {found.machine_id}: {found.state}{price}")
        typer.echo(f"address {found.url or '-'}")
        typer.echo(f"server  {(said.detail if said else found.detail) or '-'}")


@group.command()
def down(provider: ProviderName, machine: MachineId) -> None:
    """Stop a machine: the GPU is no longer billed; the disk is kept and still billed."""
    _act(provider, machine, "stop", "stopped; its disk is kept and billed until `lipsync cloud destroy`")


@group.command()
def destroy(
    provider: ProviderName,
    machine: MachineId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Return a machine to its provider: everything on it is deleted, and the billing ends."""
    if not yes:
        typer.confirm(f"Delete machine {machine} with its weights and every video that lies only there?", abort=True)
    _act(provider, machine, "destroy", "destroyed; nothing of it costs any more")


def _act(provider: str, machine: str, action: Literal["stop", "destroy"], done: str) -> None:
    with console.errors_as_sentences():
        from lipsync_server.cloud.rent import provider as open_provider

        async def act() -> None:
            async with open_provider(provider) as rented:
                await rented.act(machine, action)

        _run(act())
        typer.echo(f"machine {machine}: {done}")


def _order(image: str | None, profile: str, token: str, disk_gb: int, idle_stop: float, ssh_key: Path | None) -> Any:
    from lipsync_server.cloud.machine import PORT, Order
    from lipsync_server.errors import InvalidInput

    if not image:
        raise InvalidInput(
            "No Docker image was named. Build and push yours (see docs/rent-a-gpu.md) and set LIPSYNC_IMAGE or "
            "--image.",
            field="image",
        )
    environment = {
        "LIPSYNC_HOST": "0.0.0.0",  # noqa: S104 - in a container whose port is mapped, with a token
        "LIPSYNC_PORT": str(PORT),
        "LIPSYNC_TOKENS": token,
        "LIPSYNC_PROFILE": profile,
        "LIPSYNC_IDLE_STOP": f"{idle_stop:g}",
    }
    key = ssh_key.read_text(encoding="utf-8").strip() if ssh_key is not None else ""
    return Order(image=image, disk_gb=disk_gb, environment=environment, ssh_key=key)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)

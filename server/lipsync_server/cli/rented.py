"""Start a rented machine until its server is ready, and print its state: the longer work of `lipsync cloud`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lipsync_server import durations
from lipsync_server.cli.rental import cost_of_a_start

if TYPE_CHECKING:
    from lipsync_server.cloud.machine import Machine, Order
    from lipsync_server.cloud.remembered import RememberedMachine


async def start_and_wait(
    known: "RememberedMachine", order: "Order | None", offer: str, wheel: Path | None, wait_min: float, out: Any
) -> "Machine":
    """Rent a machine or start a stopped one, store it in the user's file at once, and wait until its server is ready.

    order: None to start `known` again. offer: the id of the offer to rent. wheel: the file to upload, or None.
    wait_min: minutes that the server may need. out: rich's console.
    """
    from lipsync_server.cloud import remembered
    from lipsync_server.cloud.rent import doctor_lines, wait_until_ready
    from lipsync_server.cloud.rent import provider as open_provider
    from lipsync_server.cloud.software import upload

    path = remembered.default_path()
    wheel = wheel or (Path(known.wheel) if known.wheel else None)

    async def send(url: str) -> None:
        if wheel is not None:
            await upload(url, wheel)

    async with open_provider(known.provider) as rented:
        if order is None:
            await rented.act(known.machine_id, "start")
        else:
            known = known.model_copy(update={"machine_id": await rented.create(offer, order)})
            out.print(f"token    {known.token}")
        remembered.remember(path, known)
        out.print(f"machine  {known.machine_id}: costs from now on, until `lipsync cloud down` or `destroy`")
        with out.status("starting") as spinner:
            ready = await wait_until_ready(
                rented,
                known.machine_id,
                start_limit_s=900,
                ready_limit_s=wait_min * 60,
                show=spinner.update,
                send=send if wheel is not None else None,
            )
    for line in await doctor_lines(ready.url, known.token):
        out.print(line)
    price = ready.price_per_hour or known.price_per_hour
    remembered.remember(path, known.model_copy(update={"url": ready.url, "price_per_hour": price}))
    return ready


async def show_status(known: "RememberedMachine", show_token: bool) -> "Machine":
    """Print the state of the machine and of its server, the countdown of the idle stop, and the cost of a start."""
    from lipsync_server.cloud.rent import idle_stop_of, readiness
    from lipsync_server.cloud.rent import provider as open_provider

    async with open_provider(known.provider) as rented:
        found = await rented.state(known.machine_id)
    answers = found.state == "running" and found.url
    answer = await readiness(found.url) if answers else None
    price = "" if found.price_per_hour is None else f", ${found.price_per_hour:.3f} an hour"
    typer.echo(f"machine {found.machine_id} at {known.provider}: {found.state}{price}")
    typer.echo(f"address {found.url or '-'}")
    typer.echo(f"server  {(answer.detail if answer else found.detail) or '-'}")
    if answers and known.token and (idle := await idle_stop_of(found.url, known.token)) is not None:
        if not idle.enabled:
            typer.echo("stops   never by itself: run `lipsync cloud down` when you are done")
        elif idle.in_s is None:
            typer.echo("stops   not counting down: a job runs, or a video is not collected")
        else:
            typer.echo(
                f"stops   in {durations.countdown(idle.in_s)} unless a job or an upload comes (`lipsync cloud keep`)"
            )
        if (per_hour := found.price_per_hour or known.price_per_hour) is not None:
            after_min = idle.after_minutes if idle.enabled else 0
            typer.echo(f"a start {cost_of_a_start(known.provider, per_hour, after_min)}")
    if show_token:
        typer.echo(f"token   {known.token or 'not remembered'}")
    return found

"""Turn the flags for a rented machine into an order: choose the provider, the offer and the software.

`lipsync cloud up`, `offers` and `template` share these decisions. Knows flags and their messages; calls a provider only
to list offers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lipsync_server.errors import InvalidInput

if TYPE_CHECKING:
    from lipsync_server.cloud.costs.first_video import FirstVideo
    from lipsync_server.cloud.machine import Order
    from lipsync_server.cloud.software import Software
    from lipsync_server.engines.datasheet import Speed

_WORTH_A_SENTENCE_MIN = 0.5
"""Minutes that another way must save to be named."""


async def ranked_offers(
    name: str,
    cuda: str,
    gpu: str,
    min_memory_gb: float,
    disk_gb: int,
    seconds: float,
    preset: str,
    profile: str,
    measured: "Sequence[Speed]" = (),
    *,
    has_image: bool,
) -> "list[FirstVideo]":
    """The offers of provider `name`, the cheapest first video first.

    cuda: the version that the host's driver must support. has_image: whether the host downloads an image with Lipsync
    inside, and not the packages for PyTorch's image. gpu: part of a card's name, "" for all. seconds, preset,
    profile: of the video. measured: the user's own speeds.
    """
    from lipsync_server.cloud.costs.first_video import IMAGE_BYTES, STOCK_BYTES, ranked
    from lipsync_server.cloud.costs.speeds import row_of_profile
    from lipsync_server.cloud.rent import provider as open_provider
    from lipsync_server.engines.registry import ENGINES
    from lipsync_server.weights.manifest import load_manifest

    manifest = load_manifest()
    row = row_of_profile(manifest, profile, preset)
    engine = manifest.profile(profile).engine if profile else ""
    host_memory = ENGINES.data_sheet(engine).host_memory if engine in ENGINES.entries else None
    async with open_provider(name) as rented:
        found = await rented.offers(gpu=gpu, min_memory_gb=min_memory_gb, disk_gb=disk_gb, limit=200, min_cuda=cuda)
    return ranked(
        found,
        weights_bytes=manifest.size_bytes(profile) if profile else 0,
        seconds=seconds,
        row=row,
        software_bytes=IMAGE_BYTES if has_image else STOCK_BYTES,
        least_host_memory_gb=host_memory.least_gb if host_memory is not None else 0.0,
        measured=measured,
    )


def stock_is_faster(one: "FirstVideo", source: str) -> str:
    """The sentence on the other way: PyTorch's image with Lipsync installed into it; "" where that is no faster.

    source: the address of the published source archive, "" for none.
    """
    if one.minutes - one.stock_minutes < _WORTH_A_SENTENCE_MIN:
        return ""
    way = f"--source {source}" if source else "--from-source"
    return (
        f"Where the host already has PyTorch's image, `cloud up {way}` has the first video in about "
        f"{one.stock_minutes:.1f} minutes for ${one.stock_cost:.2f}, in place of {one.minutes:.1f} for ${one.cost:.2f} "
        "(computed)."
    )


def chosen_offer(found: "Sequence[FirstVideo]", offer: str, yes: bool, source: str) -> tuple[str, float | None]:
    """The offer to rent and its price: the named offer, else the best one after the user has confirmed it.

    source: the address of the published source archive, "" for none.
    """
    if offer:
        named = next((one for one in found if one.offer.offer_id == offer), None)
        if named is not None and (sentence := stock_is_faster(named, source)):
            typer.echo(sentence)
        return offer, named.offer.price_per_hour if named is not None else None
    if not found:
        raise InvalidInput(
            "Nothing of this kind is for rent there now. Another --gpu, or another provider?", field="gpu"
        )
    best = found[0]
    typer.echo(
        f"offer    {best.offer.offer_id}: {best.offer.gpu}, ${best.offer.price_per_hour:.3f} an hour; a first video of "
        f"40 s in about {best.minutes:.0f} minutes for ${best.cost:.2f} (computed)"
    )
    if sentence := stock_is_faster(best, source):
        typer.echo(sentence)
    if not yes:
        typer.confirm("Rent it?", abort=True)
    return best.offer.offer_id, best.offer.price_per_hour


def provider_named(name: str) -> str:
    """`name`, or the only provider whose key is set."""
    from lipsync_server.cloud.rent import PROVIDERS, key_of

    if name:
        return name
    names = [one for one in PROVIDERS if key_of(one)]
    if len(names) == 1:
        return names[0]
    keys = ", ".join(access.key_variable for access in PROVIDERS.values())
    if names:
        raise InvalidInput(f"Keys of several providers are set; choose with --provider: {', '.join(names)}.")
    raise InvalidInput(f"No provider's key is set. Set one of {keys}.", field="provider")


def has_image(image: str) -> bool:
    """Whether a machine starts an image with Lipsync inside: the named or the published one. Else it starts
    PyTorch's."""
    from lipsync_server.cloud import published

    return bool(image or published.image())


def cuda_for(image: str) -> str:
    """The CUDA version that offers must have: our image's if an image is named or published, else the stock image's."""
    from lipsync_server.cloud import published

    return published.IMAGE_CUDA if has_image(image) else published.STOCK_CUDA


def software_named(image: str, source: str, from_source: bool, folder: Path) -> "Software":
    """The software that the flags name. folder: receives the wheel that --from-source builds. Raises InvalidInput."""
    from lipsync_server.cloud.software import build_wheel, choose_software
    from lipsync_server.paths import PACKAGE_DIR

    if from_source:
        if source:
            raise InvalidInput("--source and --from-source exclude each other.", field="source")
        source, image = str(build_wheel(PACKAGE_DIR.parents[1], folder)), ""
    return choose_software(image="" if source else image, source=source)


def order_for(
    software: "Software",
    provider: str,
    profile: str,
    token: str,
    disk_gb: int,
    idle_stop: float,
    ssh_key: Path | None,
    env: list[str],
) -> "Order":
    """The order for a new machine.

    idle_stop: in minutes, 0 for never. env: KEY=VALUE pairs, which replace our own variables. Raises InvalidInput.
    """
    from lipsync_server.cloud.machine import PORT, Order

    environment = {
        "LIPSYNC_HOST": "0.0.0.0",  # noqa: S104 - in a container whose port is mapped, with a token
        "LIPSYNC_PORT": str(PORT),
        "LIPSYNC_TOKENS": token,
        "LIPSYNC_PROFILE": profile,
        "LIPSYNC_IDLE_STOP": f"{idle_stop if stops_itself(provider) else 0:g}",
    }
    for pair in env:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--env {pair!r} must be KEY=VALUE.", field="env")
        environment[key] = value
    key = ssh_key.read_text(encoding="utf-8").strip() if ssh_key is not None else ""
    return Order(
        image=software.image,
        disk_gb=disk_gb,
        environment=environment,
        script=software.script,
        min_cuda=software.min_cuda,
        ssh_key=key,
    )


def stops_itself(provider: str) -> bool:
    """Whether a machine of this provider can stop itself when it is idle; True for an unknown provider."""
    from lipsync_server.cloud.rent import PROVIDERS

    return provider not in PROVIDERS or PROVIDERS[provider].stops_itself


def how_long_it_stays(provider: str, idle_stop: float) -> str:
    """A sentence: when the machine stops. idle_stop: in minutes, 0 for never."""
    if not (idle_stop and stops_itself(provider)):
        return "It does NOT stop itself: run `lipsync cloud down` when you are done."
    return f"It stops itself {idle_stop:g} minutes after the last collected video (`lipsync cloud status` counts down)."


def cost_of_a_start(provider: str, price_per_hour: float, idle_stop: float) -> str:
    """The cost in USD of one start beside its work, in words."""
    from lipsync_server.cloud.costs.cost import STARTUP_MIN, start_cost

    ready = f"{STARTUP_MIN:g} min until it is ready (assumed; more while it downloads)"
    if not (idle_stop and stops_itself(provider)):
        return f"${start_cost(price_per_hour, 0):.3f}: {ready}, and the minutes until you stop it"
    return f"${start_cost(price_per_hour, idle_stop):.3f}: {ready} and {idle_stop:g} min until the idle stop"

"""Replaces dated prices with today's prices, for the providers whose key is in the environment."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace

from lipsync_server.cloud.costs.cost import DISK_GB, Offer
from lipsync_server.cloud.machine import RentOffer
from lipsync_server.cloud.rent import PROVIDERS, key_of, provider
from lipsync_server.errors import InvalidInput


def with_live_prices(offers: list[Offer], environment: Mapping[str, str] = os.environ) -> tuple[list[Offer], list[str]]:
    """`offers` with the cheapest current price of the same card, and the names of the queried providers.

    A card that nobody rents out now keeps its dated price. Raises InvalidInput when the environment has no key.
    """
    names = [name for name in PROVIDERS if key_of(name, environment)]
    if not names:
        keys = ", ".join(access.key_variable for access in PROVIDERS.values())
        raise InvalidInput(f"Live prices need a provider's key in the environment: {keys}.", field="live")
    return asyncio.run(_ask(offers, names, environment)), names


async def _ask(offers: list[Offer], names: list[str], environment: Mapping[str, str]) -> list[Offer]:
    """`offers` with the cheapest current price of each card at the providers `names`."""
    found: list[Offer] = []
    for offer in offers:
        cheapest: list[RentOffer] = []
        if offer.provider in names:
            async with provider(offer.provider, environment) as rented:
                cheapest = await rented.offers(gpu=offer.gpu, min_memory_gb=0, disk_gb=DISK_GB, limit=1)
        found.append(
            replace(offer, price_per_hour=cheapest[0].price_per_hour, note="price: live") if cheapest else offer
        )
    return found

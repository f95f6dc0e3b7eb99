"""For tests of renting: recorded offers, an order, and a provider whose API is a stand-in."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lipsync_server.cloud.machine import Order, Provider
from lipsync_server.cloud.rent import PROVIDERS, provider
from lipsync_server.cloud.software import choose_software
from provider import Provider as StandIn

ORDER = Order(
    "example/lipsync:1", 70, {"LIPSYNC_TOKENS": "tok", "LIPSYNC_PROFILE": "sadtalker-256"}, ssh_key="ssh-ed25519 A"
)
# The n8n node is tested against the same recorded answers.
OFFERS = json.loads((Path(__file__).parents[1] / "data/providers/offers.json").read_text(encoding="utf-8"))
VAST_OFFERS, RUNPOD_GPUS = OFFERS["vast_offers"], OFFERS["runpod_gpus"]
TENSORDOCK_PLACES = OFFERS["tensordock_places"]


@asynccontextmanager
async def renting(name: str, api: StandIn, key: str | None = None) -> AsyncIterator[Provider]:
    environment = {PROVIDERS[name].key_variable: api.key if key is None else key}
    async with provider(name, environment, url=api.url, pauses_s=(0.0, 0.0)) as rented:
        yield rented


async def first_offers(rented: Provider, gpu: str = "", memory: float = 20) -> list[tuple[str, float]]:
    found = await rented.offers(gpu=gpu, min_memory_gb=memory, disk_gb=70, limit=5)
    return [(offer.offer_id, round(offer.price_per_hour, 4)) for offer in found]


URL = "https://example.org/lipsync-1.tar.gz"


def stock_order() -> Order:
    software = choose_software(source=URL)
    return Order(software.image, 70, ORDER.environment, software.script, software.min_cuda, ssh_key="ssh-ed25519 A")

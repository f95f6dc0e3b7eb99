"""Finds this machine's public address and its price per hour, as far as its provider publishes them to it.

Vast.ai and RunPod pass a container environment variables and an API key that is valid for this one machine. Knows those
variables and keys. Does not know tunnels.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from lipsync_server.cloud.providers.api import Api
from lipsync_server.cloud.providers.runpod import RUNPOD_URL, price_of_pod
from lipsync_server.cloud.providers.vast import VAST_URL
from lipsync_server.errors import LipsyncError

log = logging.getLogger(__name__)


@dataclass
class PublicAddress:
    """The server's public address; "" until it is known. A quick tunnel changes the address at each start."""

    url: str = ""

    def announce(self, url: str) -> None:
        """Store and log a new address. A person who rents a machine needs it first."""
        self.url = url
        log.info("public address: %s", url)


def public_address(port: int, environment: Mapping[str, str]) -> str:
    """The URL under which the provider maps `port`; "" when the provider publishes none."""
    for host_name, port_name in (
        ("PUBLIC_IPADDR", f"VAST_TCP_PORT_{port}"),
        ("RUNPOD_PUBLIC_IP", f"RUNPOD_TCP_PORT_{port}"),
    ):
        host, outer = environment.get(host_name), environment.get(port_name)
        if host and outer:
            return f"http://[{host}]:{outer}" if ":" in host else f"http://{host}:{outer}"
    if pod_id := environment.get("RUNPOD_POD_ID"):
        return f"https://{pod_id}-{port}.proxy.runpod.net"
    return ""


async def price_from_provider(
    environment: Mapping[str, str], *, vast_url: str = VAST_URL, runpod_url: str = RUNPOD_URL
) -> float | None:
    """The price of this machine in USD per hour; None when its provider does not publish it."""
    vast_id, vast_key = environment.get("CONTAINER_ID"), environment.get("CONTAINER_API_KEY")
    pod_id, pod_key = environment.get("RUNPOD_POD_ID"), environment.get("RUNPOD_API_KEY")
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            if vast_id and vast_key:
                api = Api("Vast.ai", vast_url, vast_key, "CONTAINER_API_KEY", session, ())
                price = (await api.call("GET", f"/instances/{vast_id}/")).get("instances", {}).get("dph_total")
            elif pod_id and pod_key:
                api = Api("RunPod", runpod_url, pod_key, "RUNPOD_API_KEY", session, ())
                price = price_of_pod(await api.call("GET", f"/pods/{pod_id}"))
            else:
                return None
    except LipsyncError as error:
        log.info("this machine's price could not be read (set LIPSYNC_PRICE_PER_HOUR): %s", error.detail)
        return None
    return float(price) if isinstance(price, (int, float)) else None

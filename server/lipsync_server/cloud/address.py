"""By which address and at what price the outside has this machine, as far as its provider tells it.

Knows the variables and the self-scoped keys that Vast.ai and RunPod give a container. Knows no tunnel.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from lipsync_server.cloud.api import Api
from lipsync_server.cloud.idle import RUNPOD_URL, VAST_URL
from lipsync_server.errors import LipsyncError

log = logging.getLogger(__name__)


@dataclass
class PublicAddress:
    """Where people reach this server; "" until it is known. A quick tunnel changes it."""

    url: str = ""

    def announce(self, url: str) -> None:
        """A new address: the first thing that a person who rents a machine looks for in its log."""
        self.url = url
        log.info("public address: %s", url)


def public_address(port: int, environment: Mapping[str, str]) -> str:
    """The URL under which the provider maps `port`; "" when it says nothing."""
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
    """What this very machine costs per hour in USD; None when its provider does not say."""
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
        log.info("the provider does not tell this machine's price (set LIPSYNC_PRICE_PER_HOUR): %s", error.detail)
        return None
    return float(price) if isinstance(price, (int, float)) else None


def price_of_pod(pod: Mapping[str, object]) -> float | None:
    """USD per hour of a RunPod pod: `cost` is a number, or an object that has it."""
    cost = pod.get("cost")
    if isinstance(cost, dict):
        cost = next((cost[name] for name in ("perHour", "hourly", "total", "amount") if name in cost), None)
    return float(cost) if isinstance(cost, (int, float)) else None

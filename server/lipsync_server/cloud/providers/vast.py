"""The adapter of Vast.ai: containers on other people's machines, by its API v0."""

from typing import Any, Literal

from lipsync_server.cloud.machine import (
    PORT,
    Machine,
    MachineState,
    Order,
    RentOffer,
    matches,
)
from lipsync_server.cloud.providers.api import Api, no_capacity_as_such
from lipsync_server.cloud.published import IMAGE_CUDA

VAST_URL = "https://console.vast.ai/api/v0"
_STATES: dict[str, MachineState] = {
    "running": "running",
    "stopped": "stopped",
    "exited": "stopped",
    "offline": "failed",
    "frozen": "failed",
}


class Vast:
    """The Provider for Vast.ai's containers. The id of an offer is Vast's own number."""

    name = "vast"

    def __init__(self, api: Api) -> None:
        self._api = api

    async def offers(
        self, *, gpu: str, min_memory_gb: float, disk_gb: int, limit: int, min_cuda: str = IMAGE_CUDA
    ) -> list[RentOffer]:
        query: dict[str, Any] = {
            "num_gpus": {"eq": 1},
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "direct_port_count": {"gte": 1},
            "gpu_ram": {"gte": int(min_memory_gb * 1000)},
            "disk_space": {"gte": disk_gb},
            "cuda_max_good": {"gte": float(min_cuda)},
            "type": "ondemand",
            "order": [["dph_total", "asc"]],
            "limit": 200,
        }
        answer = await self._api.call("POST", "/bundles/", body=query, idempotent=True)
        found = [_offer(each) for each in answer.get("offers", []) if matches(gpu, str(each.get("gpu_name", "")))]
        return sorted(found, key=lambda offer: offer.price_per_hour)[:limit]

    async def create(self, offer_id: str, order: Order) -> str:
        # `args` keeps the image's own entrypoint; ports are Docker flags among the variables.
        body: dict[str, Any] = {
            "image": order.image,
            "disk": order.disk_gb,
            "runtype": "args",
            "target_state": "running",
            "label": order.label,
            "env": {**order.environment, f"-p {PORT}:{PORT}": "1"},
        }
        if order.script:
            # Vast's own entrypoint starts an SSH server and then runs `onstart`, at every start of the machine.
            body |= {"runtype": "ssh", "onstart": onstart(order.script)}
        with no_capacity_as_such("Look at the offers again.", first=f"Offer {offer_id} is gone."):
            answer = await self._api.call("PUT", f"/asks/{offer_id}/", body=body, idempotent=False)
        return str(answer["new_contract"])

    async def state(self, machine_id: str) -> Machine:
        instance = (await self._api.call("GET", f"/instances/{machine_id}/")).get("instances")
        if not instance:
            return Machine(machine_id, "gone", detail="There is no such instance any more.")
        return _machine(machine_id, instance)

    async def machines(self) -> list[Machine]:
        found = (await self._api.call("GET", "/instances/")).get("instances") or []
        return [_machine(str(each["id"]), each) for each in found]

    async def act(self, machine_id: str, action: Literal["start", "stop", "destroy"]) -> None:
        if action == "destroy":
            await self._api.call("DELETE", f"/instances/{machine_id}/")
        else:
            state = "running" if action == "start" else "stopped"
            await self._api.call("PUT", f"/instances/{machine_id}/", body={"state": state})


def _machine(machine_id: str, instance: dict[str, Any]) -> Machine:
    """The machine that Vast describes in the JSON object `instance`."""
    status = str(instance.get("actual_status") or "")
    state = _STATES.get(status, "starting")
    detail = " ".join(str(instance.get("status_msg") or status or "scheduling").split())[:200]
    if state == "starting" and instance.get("intended_status") == "stopped":
        state = "stopped"
    price = instance.get("dph_total")
    return Machine(
        machine_id,
        state,
        _url(instance),
        None if price is None else float(price),
        detail,
        str(instance.get("label") or ""),
    )


def onstart(script: str) -> str:
    """The `onstart` script. Vast waits until it ends, so `script` runs in the background and writes its own log."""
    return f"cat > /root/start-lipsync.sh <<'END_OF_SCRIPT'\n{script}END_OF_SCRIPT\n" + (
        "setsid bash /root/start-lipsync.sh > /var/log/lipsync.log 2>&1 < /dev/null &\n"
    )


def _offer(each: dict[str, Any]) -> RentOffer:
    """The offer that Vast describes in the JSON object `each`. Vast counts memory in MB."""
    return RentOffer(
        offer_id=str(each["id"]),
        gpu=str(each.get("gpu_name", "?")),
        memory_gb=float(each.get("gpu_ram") or 0) / 1024,
        price_per_hour=float(each["dph_total"]),
        where=str(each.get("geolocation") or ""),
        host_memory_gb=float(each["cpu_ram"]) / 1024 if each.get("cpu_ram") else None,
        reliability=each.get("reliability", each.get("reliability2")),
        download_mbps=each.get("inet_down"),
        traffic_per_gb=each.get("inet_down_cost"),
    )


def _url(instance: dict[str, Any]) -> str:
    """The address from the current port mapping, which has Docker's form or is a plain list of outer ports."""
    host, ports = str(instance.get("public_ipaddr") or "").strip(), instance.get("ports")
    outer: object = None
    if isinstance(ports, dict):
        mapped = ports.get(f"{PORT}/tcp") or []
        outer = mapped[0].get("HostPort") if mapped else None
    elif isinstance(ports, list) and ports:
        outer = ports[0]
    return f"http://{host}:{outer}" if host and outer else ""

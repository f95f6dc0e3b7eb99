"""The adapter of RunPod: pods by its API v2. RunPod is retiring v1 and GraphQL, so they are not used.

A pod's volume is mounted at /workspace. Weights and videos are stored there, because a stop deletes the other disk.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal

from lipsync_server.cloud.machine import (
    PORT,
    RUN_START_SCRIPT,
    START_SCRIPT,
    Machine,
    MachineState,
    Order,
    RentOffer,
    matches,
)
from lipsync_server.cloud.providers.api import Api, NoCapacity, ProviderError, no_capacity_as_such
from lipsync_server.cloud.published import IMAGE_CUDA

RUNPOD_URL = "https://api.runpod.io/v2"
_STATES: dict[str, MachineState] = {
    "RUNNING": "running",
    "EXITED": "stopped",
    "ERROR": "failed",
    "TERMINATED": "gone",
}
CONTAINER_DISK_GB = 20
VOLUME = "/workspace"
_CLOUDS = ("community", "secure")


class RunPod:
    """The Provider for RunPod's pods. The id of an offer names the card and the cloud, community or secure."""

    name = "runpod"

    def __init__(self, api: Api) -> None:
        self._api = api

    async def offers(
        self, *, gpu: str, min_memory_gb: float, disk_gb: int, limit: int, min_cuda: str = IMAGE_CUDA
    ) -> list[RentOffer]:
        found = []
        for cloud in _CLOUDS:
            for each in await self._gpus(cloud, min_cuda):
                price = (each.get("price") or {}).get(cloud)
                name = str(each.get("name") or each["id"])
                in_stock = each.get("availability", "NONE") != "NONE" and each.get(cloud)
                if price and in_stock and float(each.get("memory") or 0) >= min_memory_gb and matches(gpu, name):
                    where = f"{cloud}, stock {str(each['availability']).lower()}"
                    found.append(
                        RentOffer(_offer_id(each["id"], cloud), name, float(each["memory"]), float(price), where)
                    )
        return sorted(found, key=lambda offer: offer.price_per_hour)[:limit]

    async def create(self, offer_id: str, order: Order) -> str:
        _, _, cloud = offer_id.rpartition("@")
        known = {_offer_id(each["id"], cloud): str(each["id"]) for each in await self._gpus(cloud, order.min_cuda)}
        if offer_id not in known:
            raise NoCapacity(f"RunPod has no offer {offer_id} now. Look at the offers again.")
        # v2 refuses a request with both gpu and cpu, and a request with a field that it does not know.
        body: dict[str, Any] = {
            "name": order.label,
            "image": order.image,
            "cloud": cloud.upper(),
            "gpu": {"id": known[offer_id], "count": 1, "minCudaVersion": order.min_cuda},
            "disk": CONTAINER_DISK_GB,
            "mounts": {"persistent": {"size": max(10, order.disk_gb), "path": VOLUME}},
            "ports": [f"{PORT}/http"],
            "env": pod_environment(order),
        }
        if order.script:
            body["args"] = shlex.join(["bash", "-c", RUN_START_SCRIPT])
        with no_capacity_as_such("Choose another offer or try again later."):
            return str((await self._api.call("POST", "/pods", body=body))["id"])

    async def state(self, machine_id: str) -> Machine:
        try:
            pod = await self._api.call("GET", f"/pods/{machine_id}")
        except ProviderError as error:
            if error.http_status == 404:
                return Machine(machine_id, "gone", detail="There is no such pod any more.")
            raise
        return _machine(pod)

    async def machines(self) -> list[Machine]:
        return [_machine(pod) for pod in (await self._api.call("GET", "/pods")).get("pods") or []]

    async def act(self, machine_id: str, action: Literal["start", "stop", "destroy"]) -> None:
        if action == "destroy":
            await self._api.call("DELETE", f"/pods/{machine_id}")
        else:
            await self._api.call("POST", f"/pods/{machine_id}/action", body={"action": action}, idempotent=True)

    async def _gpus(self, cloud: str, min_cuda: str) -> list[dict[str, Any]]:
        params = {"include": "AVAILABILITY", "product": "POD", "count": "1", "cloud": cloud.upper()}
        params["minCudaVersion"] = min_cuda
        gpus: list[dict[str, Any]] = (await self._api.call("GET", "/catalog/gpus", params=params)).get("gpus", [])
        return gpus


def pod_environment(order: Order) -> dict[str, str]:
    """The variables of a pod: the order's variables, its script, and the folders on the volume.

    The volume keeps its files when the pod stops.
    """
    return {
        **order.environment,
        **({START_SCRIPT: order.script} if order.script else {}),
        "LIPSYNC_WEIGHTS_DIR": f"{VOLUME}/weights",
        "LIPSYNC_DATA_DIR": f"{VOLUME}/data",
    }


def _machine(pod: dict[str, Any]) -> Machine:
    """The machine that RunPod describes in the JSON object `pod`."""
    status = str(pod.get("status", ""))
    state = _STATES.get(status, "starting")
    label = str(pod.get("name") or "")
    return Machine(str(pod["id"]), state, _url(pod), price_of_pod(pod), status.lower(), label)


def _offer_id(gpu_id: str, cloud: str) -> str:
    """The offer's id as one shell word: `nvidia-geforce-rtx-4090@community`."""
    return f"{re.sub(r'[^a-z0-9]+', '-', gpu_id.lower()).strip('-')}@{cloud}"


def _url(pod: dict[str, Any]) -> str:
    """The address of a mapped TCP port, else of the TLS proxy of the HTTP port, whose name survives restarts."""
    for port in (pod.get("runtime") or {}).get("ports") or []:
        if port.get("private") == PORT and port.get("type") == "tcp" and port.get("public") and port.get("ip"):
            return f"http://{port['ip']}:{port['public']}"
    return f"https://{pod['id']}-{PORT}.proxy.runpod.net" if pod.get("status") == "RUNNING" else ""


def price_of_pod(pod: Mapping[str, object]) -> float | None:
    """The price of a RunPod pod in USD per hour: `cost` is a number, or an object that contains the number."""
    cost = pod.get("cost")
    if isinstance(cost, dict):
        cost = next((cost[name] for name in ("perHour", "hourly", "total", "amount") if name in cost), None)
    return float(cost) if isinstance(cost, (int, float)) else None

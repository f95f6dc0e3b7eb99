"""The adapter of TensorDock: virtual machines by its API v2, set up by cloud-init because they have no Docker.

TensorDock spells GPU names in more than one way, so this adapter uses the spelling of TensorDock's own list. A stopped
machine is still billed for its disk. There is no API key that is valid for one machine only.
"""

import json
import shlex
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
from lipsync_server.cloud.providers.api import Api, ProviderError, no_capacity_as_such
from lipsync_server.cloud.published import IMAGE_CUDA, least_driver
from lipsync_server.errors import InvalidInput

TENSORDOCK_URL = "https://dashboard.tensordock.com/api/v2"
_STATES: dict[str, MachineState] = {
    "running": "running",
    "stopping": "stopped",
    "stopped": "stopped",
    "deleting": "gone",
    "deleted": "gone",
    "error": "failed",
}
LEAST_STORAGE_GB = 100
N_VCPUS, RAM_GB = 8, 32
_REFUSED = "/run/lipsync-driver-too-old"

# TensorDock's list has no driver versions, so the machine checks its own driver. If the driver is too old, the
# container cannot start, and Docker would restart it for ever. Then this program runs in place of the container. It
# answers /readyz as a server that cannot start, so that `lipsync cloud up` ends.
_REFUSAL_PAGE = """
import http.server, json, sys
class Refusal(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({"ready": False, "stage": "failed", "detail": sys.argv[2]}).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
http.server.HTTPServer(("", int(sys.argv[1])), Refusal).serve_forever()
"""


class TensorDock:
    """The Provider for TensorDock's virtual machines. The id of an offer is LOCATION:GPU."""

    name = "tensordock"

    def __init__(self, api: Api) -> None:
        self._api = api

    async def offers(
        self, *, gpu: str, min_memory_gb: float, disk_gb: int, limit: int, min_cuda: str = IMAGE_CUDA
    ) -> list[RentOffer]:
        answer = await self._api.call("GET", "/locations")
        found = []
        for place in answer.get("data", {}).get("locations", []):
            where = ", ".join(str(place[key]) for key in ("city", "country") if place.get(key))
            for each in place.get("gpus", []):
                v0_name, title = str(each["v0Name"]), str(each.get("displayName") or each["v0Name"])
                memory_gb = _memory_gb(v0_name)
                if int(each.get("max_count", 0)) > 0 and memory_gb >= min_memory_gb and matches(gpu, v0_name + title):
                    price = float(each["price_per_hr"]) + _parts(each, max(disk_gb, LEAST_STORAGE_GB))
                    offer_id = f"{place['id']}:{v0_name}"
                    found.append(RentOffer(offer_id, title, memory_gb, price, where, host_memory_gb=RAM_GB))
        return sorted(found, key=lambda offer: offer.price_per_hour)[:limit]

    async def create(self, offer_id: str, order: Order) -> str:
        location, separator, v0_name = offer_id.partition(":")
        if not separator:
            raise InvalidInput(f"{offer_id!r} is no TensorDock offer; it looks like LOCATION:GPU.", field="offer")
        if not order.ssh_key:
            raise InvalidInput("TensorDock sets machines up with an SSH key: give --ssh-key FILE.pub.", field="ssh_key")
        attributes: dict[str, Any] = {
            "name": order.label,
            "type": "virtualmachine",
            "image": "ubuntu2404",
            "resources": {
                "vcpu_count": N_VCPUS,
                "ram_gb": RAM_GB,
                "storage_gb": max(order.disk_gb, LEAST_STORAGE_GB),
                "gpus": {v0_name: {"count": 1}},
            },
            "location_id": location,
            "useDedicatedIp": True,
            "ssh_key": order.ssh_key,
            "cloud_init": cloud_init(order),
        }
        body: dict[str, Any] = {"data": {"type": "virtualmachine", "attributes": attributes}}
        with no_capacity_as_such("Choose another offer or try again later."):
            answer = await self._api.call("POST", "/instances", body=body)
        return str(answer["data"]["id"])

    async def state(self, machine_id: str) -> Machine:
        try:
            answer = await self._api.call("GET", f"/instances/{machine_id}")
        except ProviderError as error:
            if error.http_status == 404:
                return Machine(machine_id, "gone", detail="There is no such instance any more.")
            raise
        return _machine(machine_id, answer.get("data", answer))

    async def machines(self) -> list[Machine]:
        answer = await self._api.call("GET", "/instances")
        data = answer.get("data", answer.get("items", []))
        listed = data.get("instances", []) if isinstance(data, dict) else data
        return [_machine(str(each["id"]), each) for each in listed]

    async def act(self, machine_id: str, action: Literal["start", "stop", "destroy"]) -> None:
        if action == "destroy":
            await self._api.call("DELETE", f"/instances/{machine_id}")
        else:
            await self._api.call("POST", f"/instances/{machine_id}/{action}", idempotent=True)


def _machine(machine_id: str, data: dict[str, Any]) -> Machine:
    """The machine that TensorDock describes in the JSON object `data`."""
    found: dict[str, Any] = data.get("attributes", data)
    status, price = str(found.get("status", "")), found.get("rateHourly")
    state, label = _STATES.get(status, "starting"), str(found.get("name") or "")
    return Machine(machine_id, state, _url(found), None if price is None else float(price), status, label)


def cloud_init(order: Order) -> str:
    """The cloud-init script that runs our container on a bare Ubuntu machine.

    On every boot it installs Docker and NVIDIA's container toolkit where they are missing, and starts the image with
    the GPU.
    """
    variables = {**order.environment, **({START_SCRIPT: order.script} if order.script else {})}
    flags = [f"--env={name}={value}" for name, value in variables.items()]
    program = ["bash", "-c", RUN_START_SCRIPT] if order.script else []
    run = ["docker", "run", "--detach", "--restart=always", "--name=lipsync", "--gpus=all", f"--publish={PORT}:{PORT}"]
    run += ["--volume=lipsync-data:/data", "--volume=lipsync-weights:/weights", *flags, order.image, *program]
    toolkit = "https://nvidia.github.io/libnvidia-container"
    keyring = "/usr/share/keyrings/nvidia-container-toolkit.gpg"
    steps = [
        check_driver(least_driver(order.min_cuda)),
        "apt-get update && apt-get install -y docker.io curl gpg",
        f"curl -fsSL {toolkit}/gpgkey | gpg --dearmor -o {keyring}",
        f"curl -fsSL {toolkit}/stable/deb/nvidia-container-toolkit.list | sed 's#deb https#deb [signed-by={keyring}] "
        "https#' > /etc/apt/sources.list.d/nvidia-container-toolkit.list",
        "apt-get update && apt-get install -y nvidia-container-toolkit",
        "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker",
        f"[ -e {_REFUSED} ] || {shlex.join(run)}",
    ]
    # JSON is valid YAML, and json.dumps quotes every string correctly.
    return "#cloud-config\n" + json.dumps({"runcmd": [["bash", "-c", step] for step in steps]}, indent=1) + "\n"


def check_driver(least: int, port: int = PORT, refused: str = _REFUSED) -> str:
    """Shell script: if the driver is older than `least`, make the file `refused` and answer /readyz at `port`."""
    page = shlex.join(["python3", "-c", _REFUSAL_PAGE, str(port)])
    return (
        "driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null | head -n 1) || driver=\n"
        f'if [ "$(printf %s "${{driver%%.*}}" | tr -cd 0-9 | grep . || echo 0)" -lt {least} ]; then\n'
        f"touch {shlex.quote(refused)}\n"
        f'said="This host has driver ${{driver:-none}}, and the image needs {least} or newer: take another offer."\n'
        f'setsid {page} "$said" > /dev/null 2>&1 < /dev/null &\n'
        "fi"
    )


def _memory_gb(v0_name: str) -> float:
    """The memory of a card in GB from its name: `geforcertx4090-pcie-24gb` -> 24."""
    size = v0_name.rpartition("-")[2].removesuffix("gb")
    return float(size) if size.isdigit() else 0.0


def _parts(each: dict[str, Any], disk_gb: int) -> float:
    """The price per hour of cores, memory and disk. A price that the list does not have counts as 0."""
    pricing = each.get("pricing") or {}
    return (
        N_VCPUS * float(pricing.get("per_vcpu_hr") or 0)
        + RAM_GB * float(pricing.get("per_gb_ram_hr") or 0)
        + disk_gb * float(pricing.get("per_gb_storage_hr") or 0)
    )


def _url(found: dict[str, Any]) -> str:
    """The address of the server's port, from TensorDock's port forwards; "" while the machine has no IP address."""
    host, forwards = str(found.get("ipAddress") or ""), found.get("portForwards")
    if not host:
        return ""
    outer: object = PORT
    if isinstance(forwards, dict) and forwards:
        outer = forwards.get(str(PORT), outer)
    elif isinstance(forwards, list):
        outer = next((each["external_port"] for each in forwards if each.get("internal_port") == PORT), outer)
    return f"http://{host}:{outer}"

"""The machines of a Ray cluster and the engines that they offer.

Knows the form of Ray's list of nodes and the engine registry; never calls the cluster.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.registry import Registry
from lipsync_server.settings import EngineSettings, Settings

# Networks of one owner: RFC 1918, carrier-grade NAT (as VPNs use it), link-local, and IPv6's unique local addresses.
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)


@dataclass(frozen=True)
class Machine:
    """One node of the cluster: its address, its number of workers, and the cores and GPUs of each worker."""

    node_id: str
    name: str
    address: str
    port: int
    n_workers: int
    n_cpus: int
    n_gpus: int


def machines(nodes: Iterable[Mapping[str, Any]], settings: Settings) -> list[Machine]:
    """The live machines in Ray's `nodes`: one worker per `gpus_per_worker` GPUs, else per `cpus_per_worker` cores.

    A machine with fewer GPUs or cores than that gets one worker with all of them. A machine that was started with
    neither (`ray start --num-cpus 0`) gets no worker.
    """
    return [_machine(node, settings) for node in nodes if node["Alive"]]


def _machine(node: Mapping[str, Any], settings: Settings) -> Machine:
    """The machine of one of Ray's nodes, with its workers by `machines`' rule."""
    resources = node.get("Resources", {})
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    address, name = str(node["NodeManagerAddress"]), str(node.get("NodeName", ""))
    # Ray names a node without a name after its address; the host name is more helpful.
    name = name if name not in ("", address) else str(node.get("NodeManagerHostname") or address)
    if gpus:
        n_gpus = min(gpus, settings.gpus_per_worker)
        n_workers, n_cpus = gpus // n_gpus, 0
    else:
        n_gpus, n_cpus = 0, max(1, min(cpus, settings.cpus_per_worker))
        n_workers = cpus // n_cpus
    return Machine(
        str(node["NodeID"]),
        name,
        address,
        int(node["NodeManagerPort"]),
        n_workers=n_workers,
        n_cpus=n_cpus,
        n_gpus=n_gpus,
    )


def why_exposed(machine: Machine) -> str:
    """Why the traffic of `machine` may cross a public network, with the remedy; "" when its address is private."""
    try:
        address = ipaddress.ip_address(machine.address)
    except ValueError:
        return ""
    if address.is_loopback or any(address in network for network in _PRIVATE):
        return ""
    return (
        f"Machine {machine.name} is part of the cluster under the public address {machine.address}: pictures, videos "
        "and Ray's token cross the public network unencrypted, or a firewall drops them. Start Ray there again with "
        "--node-ip-address and its address in the private network."
    )


def why_other_address(ray_address: str, nodes: Iterable[Mapping[str, Any]]) -> str:
    """Why the cluster's machines may not meet at `ray_address`, with the remedy; "" when a node has that address."""
    host = ray_address.removeprefix("ray://").rpartition(":")[0].strip("[]")
    addresses = {str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]}
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ""  # a name or "auto": nothing to compare
    if host in addresses or not addresses:
        return ""
    return (
        f"The server was told that Ray's head is at {host}, but the machines of the cluster know each other as "
        f"{', '.join(sorted(addresses))}. Start Ray's head with --node-ip-address={host}, or files may take another "
        "network than the one you mean."
    )


@dataclass(frozen=True)
class ClusterRegistry(Registry):
    """The engines of all machines in the cluster: an engine is available when any machine can run it.

    The offer of a machine is kept after the machine has left, so that jobs wait for the next such machine. Until the
    first machine has sent its offer, the engines of the server's machine count.
    """

    offered: dict[str, EngineInfo] = field(default_factory=dict)

    def store_offer(self, infos: Iterable[EngineInfo]) -> None:
        """Store the offer of one machine."""
        for info in infos:
            known = self.offered.get(info.name)
            if known is None or not known.available:
                self.offered[info.name] = info

    def _describe_one(self, name: str, settings: EngineSettings) -> EngineInfo:
        info = self.offered.get(name)
        return super()._describe_one(name, settings) if info is None else replace(info, name=name)

"""What a Ray cluster is made of, as the executor sees it: its machines, and the engines that they offer.

Knows the form of Ray's list of nodes and the engine registry; never talks to the cluster.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.registry import Registry
from lipsync_server.settings import EngineSettings, Settings


@dataclass(frozen=True)
class Machine:
    """One node of the cluster, where Ray answers on it, and the workers it gets, each with so many cores and GPUs."""

    node_id: str
    name: str
    address: str
    port: int
    n_workers: int
    n_cpus: int
    n_gpus: int


def machines(nodes: Iterable[Mapping[str, Any]], settings: Settings) -> list[Machine]:
    """The living machines among Ray's `nodes`: one worker per `gpus_per_worker` GPUs, else per `cpus_per_worker` cores.

    A machine without as many GPUs or cores as one worker is due gets one worker with what there is; one that was
    started with neither (`ray start --num-cpus 0`) gets none.
    """
    return [_machine(node, settings) for node in nodes if node["Alive"]]


def _machine(node: Mapping[str, Any], settings: Settings) -> Machine:
    resources = node.get("Resources", {})
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    address, name = str(node["NodeManagerAddress"]), str(node.get("NodeName", ""))
    # A node that was not given a name is called by its address; its host name says more.
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


@dataclass(frozen=True)
class ClusterRegistry(Registry):
    """The engines as the cluster's machines offer them: one is available where any machine can run it.

    What a machine once offered stays on offer when the machine leaves: its jobs wait for the next one. Before the
    first machine has told, this machine's own view counts.
    """

    told: dict[str, EngineInfo] = field(default_factory=dict)

    def tell(self, infos: Iterable[EngineInfo]) -> None:
        """Take in what one machine offers."""
        for info in infos:
            known = self.told.get(info.name)
            if known is None or not known.available:
                self.told[info.name] = info

    def _describe_one(self, name: str, settings: EngineSettings) -> EngineInfo:
        told = self.told.get(name)
        return super()._describe_one(name, settings) if told is None else replace(told, name=name)

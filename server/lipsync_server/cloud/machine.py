"""The types that all providers of rented GPUs share: offer, order, machine, provider.

Plain records and the protocol of the adapters (vast.py, runpod.py, tensordock.py). Knows no API.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lipsync_server.cloud.published import IMAGE_CUDA

PORT = 5000
START_SCRIPT = "START_SCRIPT"
"""The variable that carries an order's script into its container, so that no provider has to quote a whole script."""
RUN_START_SCRIPT = f'eval "${START_SCRIPT}"'
MachineState = Literal["starting", "running", "stopped", "failed", "gone"]

# The messages of all three providers for an offer that is taken or a machine that is out of stock.
_NO_CAPACITY = re.compile(
    r"no_such_ask|no longer|not available|unavailable|no (capacity|instances|available|resources|nodes?)|"
    r"insufficient (capacity|resources|stock)|not enough|out of stock",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RentOffer:
    """A machine for rent. Price in USD per hour; reliability 0 to 1; download in Mbit/s; None where not published."""

    offer_id: str
    gpu: str
    memory_gb: float
    price_per_hour: float
    where: str = ""
    reliability: float | None = None
    download_mbps: float | None = None
    traffic_per_gb: float | None = None
    host_memory_gb: float | None = None


@dataclass(frozen=True)
class Order:
    """The software and the size of a new machine. ssh_key: public, for machines that are set up through one.

    script: run with bash in the container, "" for the image's own program. min_cuda: the CUDA version that the host's
    driver must support.
    """

    image: str
    disk_gb: int
    environment: Mapping[str, str] = field(default_factory=dict)
    script: str = ""
    min_cuda: str = IMAGE_CUDA
    label: str = "lipsync"
    ssh_key: str = ""


@dataclass(frozen=True)
class Machine:
    """The current state of a rented machine. url: the public address of its port 5000, "" while unknown."""

    machine_id: str
    state: MachineState
    url: str = ""
    price_per_hour: float | None = None
    detail: str = ""
    label: str = ""


class Provider(Protocol):
    """The adapter of one provider. Every call may raise ProviderError, WrongKey or NoCapacity."""

    name: str

    async def offers(
        self, *, gpu: str, min_memory_gb: float, disk_gb: int, limit: int, min_cuda: str = IMAGE_CUDA
    ) -> list[RentOffer]:
        """Machines for rent now, cheapest first. gpu: part of a name, "" for all. min_cuda: of the host's driver."""

    async def create(self, offer_id: str, order: Order) -> str:
        """Rent and start a machine; returns its id."""

    async def state(self, machine_id: str) -> Machine:
        """The current state of a machine; `gone` if the provider does not know its id."""

    async def machines(self) -> list[Machine]:
        """Every machine of this account, also machines that were rented by other means."""

    async def act(self, machine_id: str, action: Literal["start", "stop", "destroy"]) -> None:
        """Start, stop or destroy a machine. A stopped machine keeps its disk, a destroyed one does not."""


def says_no_capacity(words: str) -> bool:
    """Whether a provider's message means that the offer is taken or the card is out of stock."""
    return _NO_CAPACITY.search(words) is not None


def matches(gpu: str, name: str) -> bool:
    """Whether the text `gpu` means the card `name`: both 4090 and "rtx 4090" mean "GeForce RTX 4090"."""
    return plain_name(gpu) in plain_name(name)


def plain_name(name: str) -> str:
    """A name in lower case, without spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())

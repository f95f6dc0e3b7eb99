"""What every provider of rented GPUs is asked for, in one vocabulary.

Plain records and the protocol of the adapters (vast.py, runpod.py, tensordock.py). Knows no API.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

PORT = 5000
MIN_CUDA = "13.0"
"""What the host's driver must know for the torch in our image (constraints.txt): driver 580 or newer."""
MachineState = Literal["starting", "running", "stopped", "failed", "gone"]

# In the words of all three: an offer that was taken meanwhile, or nothing of the kind in stock.
_NO_CAPACITY = re.compile(
    r"no_such_ask|no longer|not available|unavailable|no (capacity|instances|available|resources|nodes?)|"
    r"insufficient (capacity|resources|stock)|not enough|out of stock",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RentOffer:
    """A machine for rent. Price in USD per hour; reliability 0 to 1; download in Mbit/s; None where nobody says."""

    offer_id: str
    gpu: str
    memory_gb: float
    price_per_hour: float
    where: str = ""
    reliability: float | None = None
    download_mbps: float | None = None
    traffic_per_gb: float | None = None


@dataclass(frozen=True)
class Order:
    """What is to run on a new machine. ssh_key: public, for machines that are set up through one."""

    image: str
    disk_gb: int
    environment: Mapping[str, str] = field(default_factory=dict)
    label: str = "lipsync"
    ssh_key: str = ""


@dataclass(frozen=True)
class Machine:
    """A rented machine as it is now. url: where its port 5000 is reached, "" while unknown."""

    machine_id: str
    state: MachineState
    url: str = ""
    price_per_hour: float | None = None
    detail: str = ""


class Provider(Protocol):
    """One provider. Every call raises ProviderError, WrongKey or NoCapacity with a sentence."""

    name: str

    async def offers(self, *, gpu: str, min_memory_gb: float, disk_gb: int, limit: int) -> list[RentOffer]:
        """What there is now, cheapest first; `gpu` is part of a name, "" for all."""

    async def create(self, offer_id: str, order: Order) -> str:
        """Rent and start; returns the machine's id."""

    async def state(self, machine_id: str) -> Machine: ...

    async def act(self, machine_id: str, action: Literal["start", "stop", "destroy"]) -> None: ...


def says_no_capacity(words: str) -> bool:
    return _NO_CAPACITY.search(words) is not None


def matches(gpu: str, name: str) -> bool:
    """Whether `gpu`, as a person writes it, names the card `name`: 4090 and "rtx 4090" name "GeForce RTX 4090"."""
    return _plain(gpu) in _plain(name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

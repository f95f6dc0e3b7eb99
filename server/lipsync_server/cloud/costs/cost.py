"""Computes the cost of a month of videos on a rented GPU: hours x price + storage.

    work      = videos x seconds x (seconds of work per second of video)
    hours     = (work + starts x (start-up + idle)) / 3600
    compute   = hours x price per hour
    storage   = GB x (running price x share of the month it runs + stopped price x the rest)

Prices are dated readings (DEFAULT_OFFERS) that a caller replaces with live ones. Knows no provider's API; speeds.py
has the seconds of work.
"""

from dataclasses import dataclass

HOURS_PER_MONTH = 730.0
PRICES_AS_OF = "2026-11-22"

DISK_GB = 70
IDLE_STOP_MIN = 5.0
"""Disk in GB and idle stop in minutes of a machine that `lipsync cloud up` rents. Every bill uses the same figures."""

STARTUP_MIN = 3.0
"""From the start of a stopped machine to a ready server: loading, no download. Assumed, not measured."""


@dataclass(frozen=True)
class Offer:
    """A GPU for rent. Prices in USD; storage per GB and month while the machine runs and while it is stopped.

    note: where the prices come from. stops_itself: whether a machine there can stop itself when idle.
    """

    provider: str
    gpu: str
    price_per_hour: float
    storage_running: float
    storage_stopped: float
    note: str = ""
    stops_itself: bool = True


@dataclass(frozen=True)
class Workload:
    """A month's work. starts: of the machine; each costs start-up and idle minutes."""

    videos: int
    seconds: float
    starts: int
    startup_min: float = STARTUP_MIN
    idle_min: float = IDLE_STOP_MIN
    storage_gb: float = DISK_GB


@dataclass(frozen=True)
class MonthlyCost:
    """Hours and USD of a month. per_start: the cost in USD of one start before and after its work."""

    offer: Offer
    work_hours: float
    hours: float
    compute: float
    storage: float
    per_start: float

    @property
    def total(self) -> float:
        """Compute and storage in USD."""
        return self.compute + self.storage


def monthly_cost(offer: Offer, load: Workload, seconds_per_second: float) -> MonthlyCost:
    """The cost of `load` on `offer`, by the formula at the top of this file.

    seconds_per_second: of work for a second of video.
    """
    work_hours = load.videos * load.seconds * seconds_per_second / 3600
    start_hours = (load.startup_min + load.idle_min) / 60
    hours = work_hours + load.starts * start_hours
    running = min(1.0, hours / HOURS_PER_MONTH)
    per_gb = offer.storage_running * running + offer.storage_stopped * (1 - running)
    compute, storage = hours * offer.price_per_hour, load.storage_gb * per_gb
    return MonthlyCost(offer, work_hours, hours, compute, storage, start_hours * offer.price_per_hour)


def forgotten_cost(offer: Offer) -> float:
    """USD of a month in which nobody stops the machine, without its storage."""
    return HOURS_PER_MONTH * offer.price_per_hour


def start_cost(price_per_hour: float, idle_min: float = IDLE_STOP_MIN) -> float:
    """The cost of one start beside its work in USD: the minutes until the server is ready, and until the idle stop."""
    return (STARTUP_MIN + idle_min) / 60 * price_per_hour


def video_cost(seconds: float, seconds_per_second: float, price_per_hour: float) -> float:
    """The cost of one video on a machine that is already running, in USD."""
    return seconds * seconds_per_second / 3600 * price_per_hour


_RUNPOD = "pod in the community cloud; its volume costs twice as much while the pod is stopped"
_VAST = "verified, on demand, a market that moves; storage assumed, hosts differ"
_TENSORDOCK = "'from' price, cores and memory come on top; storage assumed"

DEFAULT_OFFERS: tuple[Offer, ...] = (
    Offer("vast", "RTX 4090", 0.45, 0.15, 0.15, _VAST),
    Offer("vast", "H100 SXM", 2.40, 0.15, 0.15, _VAST),
    Offer("tensordock", "RTX 4090", 0.32, 0.04, 0.04, _TENSORDOCK, stops_itself=False),
    Offer("tensordock", "H100 SXM", 2.25, 0.04, 0.04, _TENSORDOCK, stops_itself=False),
    Offer("runpod", "RTX 4090", 0.34, 0.10, 0.20, _RUNPOD),
    Offer("runpod", "H100 SXM", 2.69, 0.10, 0.20, _RUNPOD),
)

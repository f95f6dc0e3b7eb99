"""Computes the cost of a month of videos on a rented GPU: hours x price + storage.

    work      = videos x seconds x (seconds of work per second of video)
    hours     = (work + sessions x (start-up + idle)) / 3600
    compute   = hours x price per hour
    storage   = GB x (running price x share of the month it runs + stopped price x the rest)

Prices are dated readings (DEFAULT_OFFERS) that a caller replaces with live ones. Knows no provider's API.
"""

from dataclasses import dataclass

HOURS_PER_MONTH = 730.0
PRICES_AS_OF = "2026-11-22"


@dataclass(frozen=True)
class Offer:
    """A GPU for rent. Prices in USD; storage per GB and month while the machine runs and while it is stopped.

    seconds_per_second: expected seconds of work per second of video. note: the source of the figures.
    """

    provider: str
    gpu: str
    price_per_hour: float
    storage_running: float
    storage_stopped: float
    seconds_per_second: float
    note: str


@dataclass(frozen=True)
class Workload:
    """A month's work. sessions: number of machine starts; each adds start-up and idle minutes."""

    videos: int
    seconds: float
    sessions: int
    startup_min: float
    idle_min: float
    storage_gb: float


@dataclass(frozen=True)
class MonthlyCost:
    """Hours and USD of a month. per_video: the total divided by the number of videos."""

    offer: Offer
    work_hours: float
    hours: float
    compute: float
    storage: float

    @property
    def total(self) -> float:
        return self.compute + self.storage


def monthly_cost(offer: Offer, load: Workload) -> MonthlyCost:
    """Apply the formula of the module docstring to one offer."""
    work_hours = load.videos * load.seconds * offer.seconds_per_second / 3600
    hours = work_hours + load.sessions * (load.startup_min + load.idle_min) / 60
    running = min(1.0, hours / HOURS_PER_MONTH)
    per_gb = offer.storage_running * running + offer.storage_stopped * (1 - running)
    return MonthlyCost(offer, work_hours, hours, hours * offer.price_per_hour, load.storage_gb * per_gb)


def video_cost(seconds: float, seconds_per_second: float, price_per_hour: float) -> float:
    """The cost of one video on a machine that is already running, in USD."""
    return seconds * seconds_per_second / 3600 * price_per_hour


_SPEEDS = {"rtx4090": 22.0, "h100": 3.3}


def expected_speed(gpu: str) -> float | None:
    """Expected seconds of work per second of video on the card of that name; None for a card that was not measured."""
    plain = "".join(letter for letter in gpu.lower() if letter.isalnum())
    return next((speed for name, speed in _SPEEDS.items() if name in plain), None)


_4090 = "speed: published for the plain 14B base, 4 steps, on this card; measure yours with lipsync bench"
_H100 = "speed: 4 steps, one pass, see docs/performance.md"
_RUNPOD = "price: pod, community cloud; storage: volume, twice the price while stopped"
_VAST = "price: verified on-demand, a market that moves; storage: assumed, hosts differ"
_TENSORDOCK = "price: 'from', vCPU and RAM come on top; storage: assumed"

DEFAULT_OFFERS: tuple[Offer, ...] = (
    Offer("vast", "RTX 4090", 0.45, 0.15, 0.15, _SPEEDS["rtx4090"], f"{_VAST}; {_4090}"),
    Offer("vast", "H100 SXM", 2.40, 0.15, 0.15, _SPEEDS["h100"], f"{_VAST}; {_H100}"),
    Offer("tensordock", "RTX 4090", 0.32, 0.04, 0.04, _SPEEDS["rtx4090"], f"{_TENSORDOCK}; {_4090}"),
    Offer("tensordock", "H100 SXM", 2.25, 0.04, 0.04, _SPEEDS["h100"], f"{_TENSORDOCK}; {_H100}"),
    Offer("runpod", "RTX 4090", 0.34, 0.10, 0.20, _SPEEDS["rtx4090"], f"{_RUNPOD}; {_4090}"),
    Offer("runpod", "H100 SXM", 2.69, 0.10, 0.20, _SPEEDS["h100"], f"{_RUNPOD}; {_H100}"),
)

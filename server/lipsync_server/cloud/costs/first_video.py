"""Rank offers by the cost of the first video. The user pays the machine while it downloads, loads and works.

    seconds = (software + weights) / line + unpacking and loading + the video's seconds x speed
    cost    = (seconds x price + traffic) / reliability

The software is our own image, or Lipsync's packages on a host that already has PyTorch's image (`cloud up --source`).
If a provider bills nothing while the image is pulled, the real cost is a little lower. For an offer without a line
speed, reliability or host memory, the constants below are used. Computed, not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lipsync_server.cloud.costs.speeds import expected_speed
from lipsync_server.cloud.machine import RentOffer
from lipsync_server.engines.datasheet import Row, Speed


@dataclass(frozen=True)
class Layer:
    """A layer of the GPU image: its compressed size, which a host downloads, and its size on the disk."""

    size_bytes: float
    unpacked_bytes: float


IMAGE_LAYERS = (
    Layer(0.051e9, 0.121e9),
    Layer(0.053e9, 0.112e9),
    Layer(0.090e9, 0.244e9),
    Layer(0.308e9, 0.452e9),
    Layer(0.448e9, 1.014e9),
    Layer(0.765e9, 2.283e9),
    Layer(0.760e9, 1.054e9),
    Layer(0.989e9, 1.816e9),
    Layer(0.631e9, 0.870e9),
    Layer(0.335e9, 0.441e9),
    Layer(0.317e9, 0.388e9),
    Layer(0.405e9, 0.540e9),
    Layer(0.004e9, 0.017e9),
    Layer(0.008e9, 0.014e9),
)
"""The GPU image's layers from the bottom up, in the Dockerfile's order. The sizes are those that buildah pushed on
2026-11-28 (measured)."""
IMAGE_BYTES = sum(layer.size_bytes for layer in IMAGE_LAYERS)
STOCK_BYTES = 0.38e9
"""The packages that are installed into PyTorch's image, by the sizes that pip prints. The host has the image itself."""
FIXED_S = 150.0
"""Time to unpack the image's last layers (up to a minute), to load the model, and to compile in the first job."""

_UNKNOWN_LINE_MBPS = 200.0
_UNKNOWN_RELIABILITY = 0.95
_UNKNOWN_SPEED = 60.0


@dataclass(frozen=True)
class FirstVideo:
    """The first video on a new machine.

    minutes: from the order to the video. cost: of these minutes, in USD. stock_minutes, stock_cost: the same on a host
    that already has PyTorch's image, with Lipsync installed into it. doubt: why this machine may fail, or "".
    """

    offer: RentOffer
    minutes: float
    cost: float
    stock_minutes: float
    stock_cost: float
    doubt: str = ""


def first_video(
    offer: RentOffer,
    *,
    weights_bytes: float,
    seconds: float,
    row: Row,
    software_bytes: float = IMAGE_BYTES,
    least_host_memory_gb: float = 0.0,
    measured: Sequence[Speed] = (),
) -> FirstVideo:
    """The first video, with a length of `seconds`, on `offer`.

    weights_bytes, software_bytes: to download. row: the setting of the video. least_host_memory_gb: of its engine; a
    machine with less may fail. measured: the user's own speeds.
    """
    speed = expected_speed(offer.gpu, row, measured)
    work_s = seconds * (speed.seconds if speed is not None else _UNKNOWN_SPEED)

    def minutes_and_cost(size_bytes: float) -> tuple[float, float]:
        line_s = size_bytes * 8 / ((offer.download_mbps or _UNKNOWN_LINE_MBPS) * 1e6)
        total_s = line_s + FIXED_S + work_s
        traffic = (offer.traffic_per_gb or 0.0) * size_bytes / 1e9
        cost = total_s / 3600 * offer.price_per_hour + traffic
        return total_s / 60, cost / max(0.1, offer.reliability or _UNKNOWN_RELIABILITY)

    memory_gb = offer.host_memory_gb
    short = memory_gb is not None and memory_gb < least_host_memory_gb
    doubt = f"{memory_gb:.0f} GB of host memory may be too little" if short else ""
    return FirstVideo(
        offer,
        *minutes_and_cost(software_bytes + weights_bytes),
        *minutes_and_cost(STOCK_BYTES + weights_bytes),
        doubt,
    )


def ranked(
    offers: Sequence[RentOffer],
    *,
    weights_bytes: float,
    seconds: float,
    row: Row,
    software_bytes: float = IMAGE_BYTES,
    least_host_memory_gb: float = 0.0,
    measured: Sequence[Speed] = (),
) -> list[FirstVideo]:
    """The first video on each of `offers`, the cheapest first. Offers with a doubt come last."""
    found = [
        first_video(
            offer,
            weights_bytes=weights_bytes,
            seconds=seconds,
            row=row,
            software_bytes=software_bytes,
            least_host_memory_gb=least_host_memory_gb,
            measured=measured,
        )
        for offer in offers
    ]
    return sorted(found, key=lambda one: (bool(one.doubt), one.cost))

"""Choose the device of an engine: one rule for all engines.

`auto` chooses the best card that is large enough for the engine, or the CPU if there is no card. A device that the
owner named is used in any case. Knows the cards of hardware.py; each engine states the memory that it needs. Imports no
torch.
"""

from dataclasses import dataclass

from lipsync_server.engines import hardware
from lipsync_server.engines.hardware import Gpu

_GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device under torch's name ("cpu", "cuda:1").

    gpu: the card, None on the CPU and for a card that this machine does not have. too_small: the best card, if `auto`
    found cards but none is large enough; the message names it.
    """

    name: str
    gpu: Gpu | None = None
    too_small: Gpu | None = None


def choose_device(wanted: str, *, least_bytes: int) -> Device:
    """The device for an engine that needs a card of `least_bytes` of memory.

    wanted: `auto`, `cpu`, `cuda` (the best card, however small) or `cuda:N`, as LIPSYNC_DEVICE has it.
    """
    cards = sorted(hardware.gpus(), key=_rank)
    if wanted == "auto":
        large_enough = [gpu for gpu in cards if gpu.total_bytes >= least_bytes]
        if large_enough:
            return Device(f"cuda:{large_enough[0].index}", large_enough[0])
        return Device("cpu", too_small=cards[0] if cards else None)
    if wanted == "cuda" and cards:
        return Device(f"cuda:{cards[0].index}", cards[0])
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and number.isdecimal():
        return Device(wanted, next((gpu for gpu in cards if gpu.index == int(number)), None))
    return Device(wanted)


def why_no_card(device: Device, *, title: str, least_bytes: int, needs: str, instead: str) -> str | None:
    """The reason why the card of `device` is not enough for an engine, as a sentence for people; None if it is enough.

    needs: the memory that the engine needs, as shops write it ("8 GB"). instead: the engines that need less.
    """
    gpu = device.gpu or device.too_small
    if gpu is None:
        return f"{title} needs an NVIDIA GPU with {needs}, and none was found. Use engine {instead}."
    if gpu.total_bytes < least_bytes:
        size_gib = gpu.total_bytes / _GIB
        return f"{title} needs a GPU with {needs}, and {gpu.name} has {size_gib:.0f} GiB. Use engine {instead}."
    return None


def _rank(gpu: Gpu) -> tuple[int, int, int, int]:
    """Sort key, best first: memory in whole GiB, then the newer generation, then the lower index.

    Memory is rounded to GiB, because cards that are sold with the same memory differ by a few MiB.
    """
    major, minor = gpu.compute_capability
    return -round(gpu.total_bytes / _GIB), -major, -minor, gpu.index

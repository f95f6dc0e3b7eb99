"""Seconds and accuracy on one device.

A GPU works asynchronously: a call returns when the work is queued. Every measurement here therefore waits for the
device before it reads the clock. Knows nothing of the timed work.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Clock:
    """Times work on `device`. repeats: runs of `seconds` that count."""

    device: torch.device
    repeats: int = 4

    def wait(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """The result of `work`, and wall seconds until the device has finished it."""
        self.wait()
        started = time.perf_counter()
        result = work()
        self.wait()
        return result, time.perf_counter() - started

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Wall seconds of each run; one run before them warms up and is not counted."""
        return [round(self.timed(work)[1], 6) for _ in range(self.repeats + 1)][1:]


def median(samples: list[float]) -> float:
    """The median. For an even number of samples it is the higher of the middle two, so that it is a measured value."""
    return sorted(samples)[len(samples) // 2]


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted| in the Euclidean norm (relative L2), computed in float64."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())

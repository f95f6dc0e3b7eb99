"""A clock that a test sets by hand."""

from dataclasses import dataclass


@dataclass
class HandClock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

"""How long jobs will take: seconds of work per second of video, measured per engine on this machine.

Knows numbers only. Until an engine has finished a job here there is no estimate, and none is made up.
"""

import statistics
from collections import deque

_N_KEPT = 20
_FIRST_GUESS_S = 30.0


class Estimator:
    def __init__(self) -> None:
        self._speeds: dict[str, deque[float]] = {}

    def learn(self, engine: str, seconds_per_second: float) -> None:
        self._speeds.setdefault(engine, deque(maxlen=_N_KEPT)).append(seconds_per_second)

    def speed(self, engine: str) -> float | None:
        """Median seconds of work per second of video; None before the first job of `engine`."""
        speeds = self._speeds.get(engine)
        return statistics.median(speeds) if speeds else None

    def remaining_s(self, engine: str, duration_s: float, *, elapsed_s: float, fraction: float) -> float | None:
        """Seconds until a running job of `duration_s` is done, from its own pace once it has one."""
        # Early on the load of a model and the first chunk's warm-up would be extrapolated to the whole job.
        if fraction >= 0.1 and elapsed_s > 1.0:
            return elapsed_s * (1 - fraction) / fraction
        speed = self.speed(engine)
        return None if speed is None else max(0.0, speed * duration_s - elapsed_s)

    def waiting_s(self, engine: str, duration_s: float, n_jobs: int) -> float:
        """Rough seconds of work in `n_jobs` waiting jobs with `duration_s` seconds of video between them."""
        speed = self.speed(engine)
        return n_jobs * _FIRST_GUESS_S if speed is None else speed * duration_s

"""Predicts how long jobs take, from the seconds of work per second of video measured per engine on this machine.

Callers receive these times as `expected_finish` and `Retry-After`. Knows the store's sums and the running jobs. An
engine has no forecast until it has finished a job on this machine.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping

from lipsync_server.jobs.database.store import Store
from lipsync_server.jobs.model import Job
from lipsync_server.jobs.running.attempt import RunningJob
from lipsync_server.jobs.running.plan import Planner

_N_KEPT = 20
_FIRST_GUESS_S = 30.0
_LONGEST_RETRY_S = 3600.0


class Speeds:
    """Seconds of work per second of video for each engine: the median of its last jobs."""

    def __init__(self) -> None:
        self._speeds: dict[str, deque[float]] = {}

    def learn(self, engine: str, seconds_per_second: float) -> None:
        """Add the measured speed of a finished job."""
        self._speeds.setdefault(engine, deque(maxlen=_N_KEPT)).append(seconds_per_second)

    def of(self, engine: str) -> float | None:
        """The median of `engine`; None before its first finished job."""
        speeds = self._speeds.get(engine)
        return statistics.median(speeds) if speeds else None

    def remaining_s(self, engine: str, duration_s: float, *, elapsed_s: float, fraction: float) -> float | None:
        """Seconds until a running job of `duration_s` is finished, from its own speed once that is known."""
        # At the beginning, loading the model and warming up would distort the speed of the whole job.
        if fraction >= 0.1 and elapsed_s > 1.0:
            return elapsed_s * (1 - fraction) / fraction
        speed = self.of(engine)
        return None if speed is None else max(0.0, speed * duration_s - elapsed_s)


class Forecast:
    """Predicts when jobs end. running: the running jobs. n_workers: number of workers that share the queue."""

    def __init__(
        self,
        store: Store,
        planner: Planner,
        running: Mapping[str, RunningJob],
        n_workers: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.speeds = Speeds()
        self._store = store
        self._planner = planner
        self._running = running
        self._n_workers = n_workers
        self._clock = clock

    async def finish_of(self, job: Job) -> float | None:
        """The probable end of the job; None while no speed is known."""
        running = self._running.get(job.id)
        if running is not None:
            left_s = self._left_s(running)
            return None if left_s is None else self._clock() + left_s
        if job.state != "queued":
            return None
        speed = self.speeds.of(await self._engine(job.spec.engine))
        if speed is None:
            return None
        _, ahead_s = await self._store.ahead(job.id)
        before_s = (self._running_s() + speed * ahead_s) / self._n_workers()
        return self._clock() + before_s + speed * job.spec.duration_s

    def retry_after_s(self) -> float:
        """Seconds until a place in the queue is probably free, which is when the next running job ends."""
        if not self._running:
            return 5.0
        return min(max(1.0, self._running_s() / len(self._running)), _LONGEST_RETRY_S)

    async def waiting_s(self) -> dict[str, float]:
        """Seconds of work in the queue by engine, for the metric that an autoscaler reads."""
        seconds: dict[str, float] = {}
        for wanted, (n_jobs, duration_s) in (await self._store.waiting_by_engine()).items():
            engine = await self._engine(wanted)
            speed = self.speeds.of(engine)
            work_s = n_jobs * _FIRST_GUESS_S if speed is None else speed * duration_s
            seconds[engine] = seconds.get(engine, 0.0) + work_s
        return seconds

    async def _engine(self, wanted: str) -> str:
        return (await self._planner.offer()).default if wanted == "auto" else wanted

    def _left_s(self, job: RunningJob) -> float | None:
        return self.speeds.remaining_s(job.engine, job.duration_s, elapsed_s=job.elapsed_s, fraction=job.fraction)

    def _running_s(self) -> float:
        """Total seconds of work that the running jobs still need."""
        left = [self._left_s(job) for job in self._running.values()]
        return sum(_FIRST_GUESS_S if left_s is None else left_s for left_s in left)

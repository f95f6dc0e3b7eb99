"""Which machines fail jobs: a failure of a machine is not the job's, and a sick machine must not draw the whole queue.

A job goes from a machine that failed it to another one that has not; a machine that fails two jobs in a row is set
aside for a pause that grows, as long as another one can work. Failures that all machines share are the job's own and
are forgiven. Knows the workers as an executor lists them, and which errors are a machine's. Does not know the store.
"""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from lipsync_server.errors import (
    DiskFull,
    EngineUnavailable,
    LipsyncError,
    NodeLost,
    OutOfMemory,
    ServerDiskFull,
    WeightsError,
    WorkerCrashed,
)
from lipsync_server.workers.base import WorkerInfo

log = logging.getLogger(__name__)

MAX_MACHINES = 3
"""So many machines may fail one job before the failure counts as the job's own."""
_N_IN_A_ROW = 2
_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0
_OF_A_MACHINE = (DiskFull, OutOfMemory, EngineUnavailable, WeightsError, WorkerCrashed)


def is_of_the_machine(error: LipsyncError) -> bool:
    """Whether another machine may do better. A machine that was lost is not failing: it is gone."""
    if isinstance(error, NodeLost | ServerDiskFull):
        return False
    # The base class alone stands for an exception that nobody foresaw.
    return isinstance(error, _OF_A_MACHINE) or type(error) is LipsyncError


@dataclass(frozen=True)
class _Sick:
    """Failures in a row, until when the machine is set aside by the monotonic clock, and the last failure."""

    n_failures: int
    until: float
    reason: str


class Machines:
    """What is known of the machines. `workers` lists the workers now; `changed` is called when a pause ends."""

    def __init__(
        self,
        workers: Callable[[], list[WorkerInfo]],
        later: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._later, self._clock = workers, later, clock
        self._sick: dict[str, _Sick] = {}

    def workers(self) -> list[WorkerInfo]:
        """The workers as the executor lists them, with those of machines that are set aside named as such."""
        return [
            replace(info, state="set_aside", reason=self._sick[info.node].reason)
            if info.state == "ready" and self.is_set_aside(info.node)
            else info
            for info in self._workers()
        ]

    def why_set_aside(self) -> str:
        """Which machines are set aside and why, as sentences; "" when none is."""
        names = sorted({info.node for info in self._workers() if self.is_set_aside(info.node)})
        return " ".join(f"Machine {name} is set aside: {self._sick[name].reason}" for name in names)

    def is_set_aside(self, node: str) -> bool:
        """Whether `node` gets no jobs now. The last machine that can work is never set aside."""
        return self._pauses(node) and any(
            info.node != node and _is_alive(info) and not self._pauses(info.node) for info in self._workers()
        )

    def can_run_elsewhere(self, engine: str, failed_on: Collection[str]) -> bool:
        """Whether a machine that is not among `failed_on` lives and has `engine` ("auto": any engine)."""
        return any(
            info.node not in failed_on and _is_alive(info) and (engine == "auto" or engine in info.engines)
            for info in self._workers()
        )

    def failed(self, node: str, error: LipsyncError) -> None:
        """Note that `node` failed a job which another machine gets now."""
        n_failures = self._sick[node].n_failures + 1 if node in self._sick else 1
        pause_s = 0.0
        if n_failures >= _N_IN_A_ROW:
            pause_s = min(_FIRST_PAUSE_S * 2 ** (n_failures - _N_IN_A_ROW), _LONGEST_PAUSE_S)
            log.error("machine %s failed %d jobs in a row; no jobs for %.0f s: %s", node, n_failures, pause_s, error)
            self._later(pause_s)
        reason = f"it failed {n_failures} jobs in a row, the last one with: {error.detail}"
        self._sick[node] = _Sick(n_failures, self._clock() + pause_s, reason)

    def succeeded(self, node: str) -> None:
        """Note that `node` finished a job."""
        self._sick.pop(node, None)

    def forgive(self, nodes: Collection[str]) -> None:
        """A job failed on all of `nodes`: that was the job, not the machines."""
        for node in nodes:
            self._sick.pop(node, None)

    def _pauses(self, node: str) -> bool:
        return node in self._sick and self._clock() < self._sick[node].until


def _is_alive(info: WorkerInfo) -> bool:
    return info.state in ("ready", "busy", "loading")

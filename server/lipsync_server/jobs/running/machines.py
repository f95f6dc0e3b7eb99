"""Tracks machines that fail jobs, because a failing machine is idle again at once and would fail the whole queue.

A job that failed on one machine moves to a machine that has not failed it. A machine that fails two jobs in a row is
paused (set aside) for a time that grows, as long as another machine can work. When every machine fails a job, the job
is to blame and the failures are not counted against the machines. Knows the workers as an executor lists them, and
which errors are a machine's. Does not know the store.
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
"""The number of machines that may fail one job before the failure counts as the job's own."""
_N_IN_A_ROW = 2
_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0
_OF_A_MACHINE = (DiskFull, OutOfMemory, EngineUnavailable, WeightsError, WorkerCrashed)


def is_of_the_machine(error: LipsyncError) -> bool:
    """Whether another machine may succeed after `error`. A lost machine does not count as failing."""
    if isinstance(error, NodeLost | ServerDiskFull):
        return False
    # An error of exactly the base class is an unforeseen exception.
    return isinstance(error, _OF_A_MACHINE) or type(error) is LipsyncError


@dataclass(frozen=True)
class _Sick:
    """A failing machine: its failures in a row, the end of its pause (monotonic clock, seconds), its last failure."""

    n_failures: int
    until: float
    reason: str


class Machines:
    """The failure record of all machines.

    workers: lists the current workers. later: called with the seconds until a pause ends.
    """

    def __init__(
        self,
        workers: Callable[[], list[WorkerInfo]],
        later: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._later, self._clock = workers, later, clock
        self._sick: dict[str, _Sick] = {}

    def workers(self) -> list[WorkerInfo]:
        """The workers as the executor lists them; workers of a machine that is set aside carry the reason."""
        return [
            replace(info, state="set_aside", reason=self._sick[info.node].reason)
            if info.state == "ready" and self.is_set_aside(info.node)
            else info
            for info in self._workers()
        ]

    def why_set_aside(self) -> str:
        """Sentences that name the machines that are set aside and why; "" when there are none."""
        names = sorted({info.node for info in self._workers() if self.is_set_aside(info.node)})
        return " ".join(f"Machine {name} is set aside: {self._sick[name].reason}" for name in names)

    def is_set_aside(self, node: str) -> bool:
        """Whether `node` receives no jobs now. The last machine that can work is never set aside."""
        return self._pauses(node) and any(
            info.node != node and _is_alive(info) and not self._pauses(info.node) for info in self._workers()
        )

    def can_run_elsewhere(self, engine: str, failed_on: Collection[str]) -> bool:
        """Whether a live machine outside `failed_on` has `engine` ("auto": any engine)."""
        return any(
            info.node not in failed_on and _is_alive(info) and (engine == "auto" or engine in info.engines)
            for info in self._workers()
        )

    def failed(self, node: str, error: LipsyncError) -> None:
        """Record that `node` failed a job which another machine renders next."""
        n_failures = self._sick[node].n_failures + 1 if node in self._sick else 1
        pause_s = 0.0
        if n_failures >= _N_IN_A_ROW:
            pause_s = min(_FIRST_PAUSE_S * 2 ** (n_failures - _N_IN_A_ROW), _LONGEST_PAUSE_S)
            log.error("machine %s failed %d jobs in a row; no jobs for %.0f s: %s", node, n_failures, pause_s, error)
            self._later(pause_s)
        reason = f"it failed {n_failures} jobs in a row, the last one with: {error.public_detail}"
        self._sick[node] = _Sick(n_failures, self._clock() + pause_s, reason)

    def succeeded(self, node: str) -> None:
        """Record that `node` finished a job."""
        self._sick.pop(node, None)

    def forgive(self, nodes: Collection[str]) -> None:
        """Clear the failures of `nodes`: a job that failed on all of them was itself to blame."""
        for node in nodes:
            self._sick.pop(node, None)

    def _pauses(self, node: str) -> bool:
        return node in self._sick and self._clock() < self._sick[node].until


def _is_alive(info: WorkerInfo) -> bool:
    return info.state in ("ready", "busy", "loading")

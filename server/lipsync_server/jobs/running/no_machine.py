"""Finds the jobs that have waited too long for a machine of the cluster that can run them.

In a cluster a job waits while no machine has its engine: a machine that restarts comes back, and an autoscaler starts
one because the job waits. This module counts that time for each job and sets the limit. Knows ids and names of engines
only.
"""

from collections.abc import Mapping, Set

from lipsync_server.errors import EngineUnavailable


class NoMachine:
    """The waiting times of jobs without a machine. limit_s: longest time of a job without one; 0 for no limit."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._since: dict[str, float] = {}

    def expired(self, waiting: Mapping[str, str], runnable: Set[str], now: float) -> list[str]:
        """The jobs that have waited too long at `now`, in seconds of a monotonic clock.

        waiting: id -> requested engine, `auto` included. runnable: the requested engines that some machine can run.
        The time of a job begins again when a machine for it was there.
        """
        stranded = [job_id for job_id, engine in waiting.items() if engine not in runnable]
        self._since = {job_id: self._since.get(job_id, now) for job_id in stranded}
        return [job_id for job_id in stranded if self.limit_s and now - self._since[job_id] >= self.limit_s]

    def error(self, engine: str) -> EngineUnavailable:
        """The reason for a job that requested `engine`."""
        wanted = "any engine" if engine == "auto" else f"engine {engine}"
        return EngineUnavailable(
            f"No machine of the cluster has offered {wanted} for {self.limit_s:g} s (LIPSYNC_NO_MACHINE_TIMEOUT_S). "
            "GET /v1/engines shows the machines and why they cannot run it. Start a machine, then send the job again.",
            field="engine",
        )

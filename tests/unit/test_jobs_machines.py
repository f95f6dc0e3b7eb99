"""A failure of a machine does not count against the job, and a sick machine does not get one job after the other."""

import pytest
from hand_clock import HandClock
from lipsync_server import errors
from lipsync_server.jobs.running.machines import Machines, is_of_the_machine
from lipsync_server.jobs.running.no_machine import NoMachine
from lipsync_server.workers.base import WorkerInfo, WorkerState

FULL = errors.DiskFull("On machine full: Only 0 MiB are free in /tmp; free some space there.")


class Cluster:
    """Workers by machine, each with its state; the pauses that were asked for."""

    def __init__(self, **states: WorkerState) -> None:
        self.states = states
        self.clock = HandClock(100.0)
        self.pauses_s: list[float] = []
        self.machines = Machines(self._workers, self.pauses_s.append, self.clock)

    def _workers(self) -> list[WorkerInfo]:
        return [
            WorkerInfo(f"{name}-0", name, "preview", state, engines=frozenset({"preview"}))
            for name, state in self.states.items()
        ]


def test_a_machine_that_fails_two_jobs_in_a_row_is_set_aside_with_its_reason() -> None:
    cluster = Cluster(full="ready", good="ready")
    cluster.machines.failed("full", FULL)
    assert not cluster.machines.is_set_aside("full")
    cluster.machines.failed("full", FULL)
    assert cluster.machines.is_set_aside("full")
    shown = {info.node: info for info in cluster.machines.workers()}
    assert (shown["full"].state, shown["good"].state) == ("set_aside", "ready")
    assert "Only 0 MiB are free" in shown["full"].reason
    assert "Machine full is set aside: it failed 2 jobs in a row" in cluster.machines.why_set_aside()


def test_the_pauses_of_a_sick_machine_grow_and_end_with_a_success() -> None:
    cluster = Cluster(full="ready", good="ready")
    for n_failures in range(1, 9):
        cluster.machines.failed("full", FULL)
        if n_failures > 1:
            assert cluster.machines.is_set_aside("full")
            cluster.clock.seconds += cluster.pauses_s[-1]
            assert not cluster.machines.is_set_aside("full"), "it is tried again"
    assert cluster.pauses_s == sorted(cluster.pauses_s) and cluster.pauses_s[0] < cluster.pauses_s[-1] == 600
    cluster.machines.succeeded("full")
    cluster.machines.failed("full", FULL)
    assert not cluster.machines.is_set_aside("full")


@pytest.mark.parametrize("other", ["dead", "starting"])
def test_the_last_machine_that_can_work_is_never_set_aside(other: WorkerState) -> None:
    cluster = Cluster(full="ready", other=other)
    for _ in range(3):
        cluster.machines.failed("full", FULL)
    assert not cluster.machines.is_set_aside("full")
    cluster.states["other"] = "busy"
    assert cluster.machines.is_set_aside("full")


def test_two_sick_machines_do_not_set_each_other_aside() -> None:
    cluster = Cluster(a="ready", b="ready")
    for _ in range(2):
        cluster.machines.failed("a", FULL)
        cluster.machines.failed("b", FULL)
    assert not cluster.machines.is_set_aside("a") and not cluster.machines.is_set_aside("b")


def test_a_job_that_fails_everywhere_is_not_held_against_the_machines() -> None:
    cluster = Cluster(a="ready", b="ready", c="ready")
    for _ in range(5):
        cluster.machines.failed("a", FULL)
        cluster.machines.failed("b", FULL)
        cluster.machines.forgive({"a", "b", "c"})
    assert cluster.pauses_s == []


def test_a_job_moves_only_to_a_machine_that_has_its_engine() -> None:
    cluster = Cluster(a="ready", b="busy", c="dead")
    assert cluster.machines.can_run_elsewhere("preview", {"a"})
    assert cluster.machines.can_run_elsewhere("auto", {"a"})
    assert not cluster.machines.can_run_elsewhere("infinitetalk", {"a"})
    assert not cluster.machines.can_run_elsewhere("preview", {"a", "b"})


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (FULL, True),
        (errors.OutOfMemory("x"), True),
        (errors.WeightsError("x"), True),
        (errors.EngineUnavailable("x"), True),
        (errors.WorkerCrashed("x"), True),
        (errors.LipsyncError("Engine preview failed with KeyError"), True),
        (errors.NodeLost("x"), False),
        (errors.ServerDiskFull("x"), False),
        (errors.NoFace("x"), False),
        (errors.InvalidAudio("x"), False),
        (errors.TimeLimit("x"), False),
    ],
)
def test_only_failures_of_the_machine_count_against_the_machine(error: errors.LipsyncError, machine: bool) -> None:
    assert is_of_the_machine(error) is machine


def test_the_time_without_a_machine_begins_again_when_one_was_there() -> None:
    missing = NoMachine(10)
    waiting = {"a": "flashhead", "b": "auto", "c": "preview"}
    assert missing.expired(waiting, {"preview"}, 0) == []
    assert missing.expired(waiting, {"preview", "auto"}, 9) == []
    assert missing.expired(waiting, {"preview"}, 10) == ["a"]
    assert missing.expired({"b": "auto"}, {"preview"}, 19) == []
    assert missing.expired({"b": "auto"}, {"preview"}, 20) == ["b"]
    assert NoMachine(0).expired({"b": "auto"}, set(), 1e9) == []

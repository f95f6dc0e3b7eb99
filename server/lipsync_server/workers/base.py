"""The worker interface: an executor has workers, a worker renders one task at a time.

The queue asks the executor for an idle worker, hands it a task and releases it. Workers may join and leave while the
server runs (a child process that is restarted, a node of a Ray cluster), so nobody keeps a list of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from lipsync_server.engines.registry import Registry
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

WorkerState = Literal["starting", "loading", "ready", "busy", "set_aside", "dead"]
LoadStage = Literal["starting", "downloading", "loading", "ready", "failed"]


@dataclass(frozen=True)
class WorkerInfo:
    """One worker as it is now. `node` is the machine, `engine` the engine it holds loaded ("" while none is).

    reason: why it takes no work, "" when it does. version: of lipsync-server in its process, "" while unknown.
    engines: those that it can run.
    """

    worker_id: str
    node: str
    engine: str
    state: WorkerState
    task_id: str | None = None
    reason: str = ""
    version: str = ""
    engines: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoadState:
    """How far the default engine is: served by /readyz. `failed` carries the reason in `detail`."""

    ready: bool
    stage: LoadStage
    fraction: float
    detail: str
    bytes_done: int | None = None
    bytes_total: int | None = None
    seconds_left: float | None = None


def furthest(states: Iterable[LoadState]) -> LoadState | None:
    """The state nearest to ready among `states`; None when there are none."""
    order: tuple[LoadStage, ...] = ("ready", "loading", "downloading", "starting", "failed")
    return min(states, key=lambda state: (order.index(state.stage), -state.fraction), default=None)


class Worker(Protocol):
    worker_id: str
    node: str
    """The machine that it runs on."""
    engines: frozenset[str]
    """Names of the engines that this worker can load and run."""

    async def render(self, task: RenderTask, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        """Render `task`. Raises the LipsyncError that ended it: Cancelled after cancel(), WorkerCrashed when the
        process or node died (the task's scratch folder then holds what a second try resumes from)."""

    def cancel(self, task_id: str) -> None:
        """Ask a running render to stop; returns at once, render() then raises Cancelled."""


class Executor(Protocol):
    async def start(self) -> None:
        """Start the workers and begin loading the default engine; returns before it has loaded."""

    async def next_idle(self) -> Worker:
        """Wait for an idle worker and reserve it for the caller."""

    def release(self, worker: Worker) -> None:
        """Give a reserved worker back, rendered or not."""

    def workers(self) -> list[WorkerInfo]: ...

    def load_state(self) -> LoadState: ...

    async def close(self) -> None:
        """Stop every worker; running renders raise WorkerCrashed."""


@runtime_checkable
class TakesLateWeights(Protocol):
    """An executor that can start before the weights of its default engine are there."""

    def hold_back(self, engine: str) -> None:
        """Before start(): do not choose `engine` until load_default(), whatever lies on disk."""

    async def load_default(self) -> None:
        """Choose the default engine again, because weights have arrived, and load it as workers become free."""


@runtime_checkable
class OffersEngines(Protocol):
    """An executor whose workers are on other machines than the server, and may hold engines that it has not."""

    registry: Registry
    """The engines as the workers' machines offer them."""

"""The worker interface: an executor has workers, a worker renders one task at a time.

The queue requests an idle worker from the executor, gives it a task and releases it. Workers may join and leave while
the server runs (a restarted child process, a node of a Ray cluster), so only the executor keeps a list of them.
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
    """The current state of one worker. node: its machine. engine: the loaded engine ("" while none is loaded).

    reason: why the worker accepts no task, "" when it does. version: the lipsync-server version in its process, ""
    while unknown. engines: the names of the engines that it can run.
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
    """The progress of loading the default engine, served by /readyz. detail: the reason when the state is `failed`."""

    ready: bool
    stage: LoadStage
    fraction: float
    detail: str
    bytes_done: int | None = None
    bytes_total: int | None = None
    seconds_left: float | None = None


def furthest(states: Iterable[LoadState]) -> LoadState | None:
    """The state in `states` that is nearest to ready; None for no states."""
    order: tuple[LoadStage, ...] = ("ready", "loading", "downloading", "starting", "failed")
    return min(states, key=lambda state: (order.index(state.stage), -state.fraction), default=None)


class Worker(Protocol):
    """Renders one task at a time, in a process of its own."""

    worker_id: str
    node: str
    """The machine that this worker runs on."""
    engines: frozenset[str]
    """Names of the engines that this worker can load and run."""

    async def render(self, task: RenderTask, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        """Render `task`. Raises a LipsyncError: Cancelled after cancel(), WorkerCrashed when process or machine died.

        After WorkerCrashed the task's scratch folder holds the files from which a second try resumes.
        """

    def cancel(self, task_id: str) -> None:
        """Request the end of a running render; returns at once. render() then raises Cancelled."""


class Executor(Protocol):
    """Keeps the list of workers, and hands idle ones out."""

    async def start(self) -> None:
        """Start the workers and begin loading the default engine; returns before it has loaded."""

    async def next_idle(self) -> Worker:
        """Wait for an idle worker and reserve it for the caller."""

    def release(self, worker: Worker) -> None:
        """Return a reserved worker, whether it has rendered or not."""

    def workers(self) -> list[WorkerInfo]:
        """The current state of every worker."""

    def load_state(self) -> LoadState:
        """The load state of the default engine on the worker that is nearest to ready."""

    async def close(self) -> None:
        """Stop every worker; running renders raise WorkerCrashed."""


@runtime_checkable
class TakesLateWeights(Protocol):
    """An executor that can start before the weights of its default engine are there."""

    def hold_back(self, engine: str) -> None:
        """Call before start(): `engine` is not chosen before load_default(), whatever files exist."""

    async def load_default(self) -> None:
        """Choose the default engine again after weights were downloaded; workers load it as they become free."""


@runtime_checkable
class OffersEngines(Protocol):
    """An executor whose workers run on other machines, which may have engines that the server's machine lacks."""

    registry: Registry
    """The engines as the workers' machines offer them."""

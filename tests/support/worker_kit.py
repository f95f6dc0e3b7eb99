"""Worker processes for tests: an executor of the stand-in engine, its processes, and renders that have begun."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from lipsync_server.settings import Settings
from lipsync_server.workers.base import Worker
from lipsync_server.workers.process.executor import ProcessExecutor
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask
from stand_in import REGISTRY

DEADLINE_S = 60


@asynccontextmanager
async def running(weights: Path, n_workers: int = 1, **settings: float) -> AsyncIterator[ProcessExecutor]:
    executor = ProcessExecutor(
        Settings.model_validate({"weights_dir": weights, "workers": n_workers, **settings}), REGISTRY
    )
    await executor.start()
    try:
        yield executor
    finally:
        await executor.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the executor does by itself."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for: the state is asked for
            await asyncio.sleep(0.01)


async def idle(executor: ProcessExecutor) -> Worker:
    async with asyncio.timeout(DEADLINE_S):
        return await executor.next_idle()


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes below `pid`, oldest first."""
    below = psutil.Process(pid).children(recursive=True)
    found = [process for process in below if "lipsync_server.workers.process.child" in " ".join(process.cmdline())]
    return sorted(found, key=lambda process: process.create_time())


class Started:
    """Collects progress. `generating` is set when the render has made its first frames."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []
        self.generating = asyncio.Event()

    def __call__(self, event: ProgressEvent) -> None:
        self.events.append(event)
        if event.stage == "generate":
            self.generating.set()


async def render(worker: Worker, task: RenderTask) -> RenderOutcome:
    async with asyncio.timeout(DEADLINE_S):
        return await worker.render(task, lambda event: None)


async def start_render(worker: Worker, task: RenderTask) -> tuple[asyncio.Task[RenderOutcome], Started]:
    started = Started()
    job = asyncio.create_task(worker.render(task, started))
    async with asyncio.timeout(DEADLINE_S):
        await started.generating.wait()
    return job, started

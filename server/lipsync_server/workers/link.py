"""The connection to one worker process, as worker.py uses it, and the time limits of such a process.

There are two implementations: for a child process of the server (process/executor.py) and for an actor of a Ray cluster
(ray/link.py). Knows the messages between server and worker process; knows neither pipes nor Ray.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lipsync_server.settings import Settings
from lipsync_server.workers import messages
from lipsync_server.workers.task import RenderTask

_N_SLICES = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Time limits of a worker process, in seconds. A process that exceeds one is killed and restarted.

    silence_s: time without any message while the process starts, loads or renders. A process sends a heartbeat every
    few seconds, so a silent process is stopped or stuck in a call that never returns. load_s: time without progress
    while it loads an engine or renders, heartbeats aside. cancel_grace_s: time between the cancellation of a render and
    its end.
    """

    silence_s: float = 120.0
    load_s: float = 1800.0
    cancel_grace_s: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits of the settings."""
        return cls(silence_s=settings.worker_silence_s, load_s=settings.load_timeout_s)


@dataclass(frozen=True)
class WorkerOffer:
    """The engines that a worker process can run, and the engine that it loads first.

    default: the engine to load first, "" when there is none now. why: the reason when none can ever be loaded; "" when
    one may become available later, because its weights are still downloading. version: the lipsync-server version in
    that process.
    """

    engines: frozenset[str]
    default: str
    why: str = ""
    version: str = ""


class LinkLost(Exception):
    """A worker process has ended or cannot be reached. machine_gone: its whole machine was lost."""

    def __init__(self, cause: str, *, machine_gone: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.machine_gone = cause, machine_gone


class Link(Protocol):
    """The connection to one worker process, from its start to its end. Every method may raise LinkLost."""

    async def start(self) -> WorkerOffer:
        """Start the process; returns when the process accepts tasks."""

    async def why_silent(self) -> str:
        """The likely reason why the process sent no message, as the end of a sentence; "" when unknown."""

    def load(self, engine: str) -> AsyncGenerator[messages.FromWorker, None]:
        """Load `engine`; the last message is Loaded or LoadFailed."""

    def render(self, serial: int, task: RenderTask) -> AsyncGenerator[messages.FromWorker, None]:
        """Render `task`; the last message is Finished or Failed. `serial` numbers the renders of one worker."""

    def cancel(self, serial: int) -> None:
        """Request the end of render `serial`; returns at once."""

    async def ended(self) -> str:
        """Wait until the process has ended by itself; returns the cause."""

    async def kill(self) -> None:
        """End the process if it still runs; returns when it has ended. Never raises."""


async def within(limit_s: float, work: Awaitable[T]) -> T:
    """Return the result of `work`. Raises TimeoutError after `limit_s` seconds in which this event loop ran.

    The time is counted in slices. A server that was itself paused for a while therefore reads the messages that wait
    in its pipe before it considers the process silent.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(_N_SLICES):
            await asyncio.wait({task}, timeout=limit_s / _N_SLICES)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

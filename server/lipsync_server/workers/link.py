"""The connection to one worker process, as worker.py uses it, and how long such a process may be silent.

Two kinds of process stand behind it: a child process of the server (process.py) and an actor of a Ray cluster
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
    """How long a worker process may take, in seconds. A process that takes longer is killed and started again.

    silence_s: without any message while it starts, loads or renders. A process sends a heartbeat every few seconds,
    so silence means that it is stopped or stuck in a call that never returns. load_s: with heartbeats, but without
    progress while it loads an engine. cancel_grace_s: from being asked to stop a render to its end.
    """

    silence_s: float = 120.0
    load_s: float = 1800.0
    cancel_grace_s: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(silence_s=settings.worker_silence_s, load_s=settings.load_timeout_s)


@dataclass(frozen=True)
class WorkerOffer:
    """The engines that a worker process can run, and which of them it loads first.

    default: "" when there is none to load now; `why` then says why none can ever be loaded, or is "" when one may
    come later (its weights are still downloading). version: of lipsync-server in that process.
    """

    engines: frozenset[str]
    default: str
    why: str = ""
    version: str = ""


class LinkLost(Exception):
    """A worker process has ended, or cannot be reached. `machine_gone`: its whole machine went away."""

    def __init__(self, cause: str, *, machine_gone: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.machine_gone = cause, machine_gone


class Link(Protocol):
    """The connection to one worker process, from its start to its end. Every method may raise LinkLost."""

    async def start(self) -> WorkerOffer:
        """Start the process; returns when it takes work."""

    async def why_silent(self) -> str:
        """What is known of a process that sent nothing for too long, as the end of a sentence; "" when nothing is."""

    def load(self, engine: str) -> AsyncGenerator[messages.FromWorker, None]:
        """Load `engine`; the last message is Loaded or LoadFailed."""

    def render(self, serial: int, task: RenderTask) -> AsyncGenerator[messages.FromWorker, None]:
        """Render `task`; the last message is Finished or Failed. `serial` numbers the renders of one worker."""

    def cancel(self, serial: int) -> None:
        """Ask the process to stop render `serial`; returns at once."""

    async def ended(self) -> str:
        """Wait until the process has ended by itself; returns the cause."""

    async def kill(self) -> None:
        """End the process if it still runs; returns when it has ended. Never raises."""


async def within(limit_s: float, work: Awaitable[T]) -> T:
    """The result of `work`; TimeoutError after `limit_s` seconds in which this event loop ran.

    The time is counted in slices, so that a server that was itself stopped for a while does not take the messages that
    wait for it for silence.
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

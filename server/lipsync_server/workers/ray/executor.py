"""Runs engines on the machines of a Ray cluster: one actor per GPU, or per group of CPU cores without a GPU.

The queue stays in the server's store; Ray transfers files to the actors and back. Machines may join and leave at any
time. Only this folder imports Ray, and only `--executor ray` imports this module. worker.py decides what happens when
an actor ends or hangs; link.py has the calls to one actor.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

# Ray reads these variables when it is imported. They switch off usage statistics, and the stack trace that Ray logs
# at an ordinary stop of the server.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")

try:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as missing:
    from lipsync_server.errors import LipsyncError
    from lipsync_server.extras import extra_is_missing

    raise LipsyncError(extra_is_missing("LIPSYNC_EXECUTOR=ray", ["ray"], "ray")) from missing

from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.errors import LipsyncError
from lipsync_server.settings import RenderSettings, Settings
from lipsync_server.workers.base import LoadState, Worker, WorkerInfo, furthest
from lipsync_server.workers.idle import IdleWorkers
from lipsync_server.workers.link import Limits
from lipsync_server.workers.ray.actor import EngineActor
from lipsync_server.workers.ray.cluster import ClusterRegistry, Machine, machines, why_exposed, why_other_address
from lipsync_server.workers.ray.link import RayLink
from lipsync_server.workers.worker import EngineWorker

log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 1.0
_N_THREADS = 16
# render, load, lifeline, cancel, receive or why_no_room, drop, and one to spare
_N_CALLS = 7


class RayExecutor:
    """Workers on all machines of the Ray cluster at `settings.ray_address`. All methods belong to one event loop.

    registry: the engines that the machines offer; tests pass their own.
    """

    def __init__(self, settings: Settings, registry: Registry = ENGINES) -> None:
        self.registry = ClusterRegistry(registry.entries)
        self._settings = settings
        self._on_machines = (_for_machines(settings), Registry(registry.entries))
        self._limits = Limits.of(settings)
        self._workers: dict[str, EngineWorker] = {}
        self._machines: dict[str, Machine] = {}
        self._left: list[str] = []
        self._idle = IdleWorkers(self._in_turn, lends_without_engines=False)
        self._threads = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="ray")
        self._watching: asyncio.Task[None] | None = None
        self._actor_class: Any = None

    async def start(self) -> None:
        """Connect to the cluster and make the first workers. Raises LipsyncError when there is no cluster."""
        await self._in_thread(partial(_connect, self._settings))
        if differs := why_other_address(self._settings.ray_address, await self._in_thread(ray.nodes)):
            log.warning("%s", differs)
        self._actor_class = ray.remote(EngineActor)
        await self._update_machines()
        self._watching = asyncio.create_task(self._watch(), name="machines of the cluster")

    async def next_idle(self) -> Worker:
        return await self._idle.next()

    def release(self, worker: Worker) -> None:
        self._idle.release(worker)

    def workers(self) -> list[WorkerInfo]:
        return [worker.info() for worker in self._workers.values()]

    def load_state(self) -> LoadState:
        states = [worker.load_state() for worker in self._workers.values()]
        if (state := furthest(states)) is not None:
            return state
        return LoadState(False, "starting", 0.0, f"No machine of the cluster can take work yet.{self._who_left()}")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._remove_workers(list(self._workers), "the server stopped it")
        if self._actor_class is not None:
            await self._in_thread(ray.shutdown)
        self._threads.shutdown(wait=False)

    async def _watch(self) -> None:
        """Follow the machines of the cluster, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                await self._update_machines()
            except Exception:  # Ray raises many kinds of errors while its head restarts
                log.exception("the cluster's machines cannot be listed; trying again")

    async def _update_machines(self) -> None:
        """Make workers on machines that joined, and remove the workers of machines that left."""
        present = machines(await self._in_thread(ray.nodes), self._settings)
        found = {
            f"{machine.node_id[:12]}-{index}": machine for machine in present for index in range(machine.n_workers)
        }
        gone = [worker_id for worker_id in self._workers if worker_id not in found]
        if gone:
            names = sorted({self._machines[one].name for one in gone})
            self._left = sorted({*self._left, *names})
            log.warning("machines left the cluster: %s.%s", ", ".join(names), self._who_left())
            await self._remove_workers(gone, "its machine left the cluster")
        for worker_id, machine in found.items():
            if worker_id not in self._workers:
                self._join(worker_id, machine)

    def _join(self, worker_id: str, machine: Machine) -> None:
        """Make and start a worker on a machine of the cluster."""
        log.info("worker %s on machine %s joined the cluster", worker_id, machine.name)
        if exposed := why_exposed(machine):
            log.warning("%s", exposed)
        self._left = [name for name in self._left if name != machine.name]
        self._machines[worker_id] = machine
        self._workers[worker_id] = worker = EngineWorker(
            worker_id,
            machine.name,
            lambda: RayLink(
                machine, self._make_actor, self._threads, lambda offer: self.registry.store_offer(offer.engines)
            ),
            limits=self._limits,
            changed=self._idle.changed,
            place=f" on {machine.name}",
        )
        worker.start()

    def _who_left(self) -> str:
        """A sentence to append that names the machines that left and the remedy; "" when no machine left."""
        if not self._left:
            return ""
        return (
            f" {', '.join(self._left)} left it. A machine that Ray declared dead comes back when `ray start` runs "
            "there again, which the loop of docs/cluster.md does by itself."
        )

    async def _remove_workers(self, worker_ids: list[str], why: str) -> None:
        """Stop these workers and wait for their end. why: the reason for a render that they still have."""
        workers = [self._workers.pop(worker_id) for worker_id in worker_ids]
        for worker_id in worker_ids:
            del self._machines[worker_id]
        for worker in workers:
            worker.stop(why)
        await asyncio.gather(*(worker.ended() for worker in workers))

    def _make_actor(self, machine: Machine) -> Any:
        """A new actor on this machine, with its share of the cores and GPUs."""
        return self._actor_class.options(
            num_cpus=machine.n_cpus,
            num_gpus=machine.n_gpus,
            max_concurrency=_N_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine.node_id, soft=False),
        ).remote(*self._on_machines)

    def _in_turn(self) -> list[EngineWorker]:
        """The workers, the one that has been idle longest first."""
        return sorted(self._workers.values(), key=lambda worker: worker.idle_since)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _connect(settings: Settings) -> None:
    """Connect this process to the cluster. Raises LipsyncError with the remedy when there is none."""
    started = time.monotonic()
    record_factory = logging.getLogRecordFactory()
    try:
        ray.init(
            address=settings.ray_address,
            namespace="lipsync",
            log_to_driver=False,  # the renders of an actor carry its log lines
            configure_logging=False,
            include_dashboard=False,
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise LipsyncError(
            f"There is no Ray cluster at {settings.ray_address!r} that this machine is part of: {error}. Start Ray "
            "here first (`ray start --head`, or `ray start --address HEAD:6379`). Where the cluster has a token, the "
            "server needs RAY_AUTH_MODE=token and the same token. docs/cluster.md shows how."
        ) from error
    finally:
        logging.setLogRecordFactory(record_factory)  # Ray's log record factory adds a field to every line of our log
    log.info("connected to the Ray cluster in %.1f s", time.monotonic() - started)


def _for_machines(settings: Settings) -> RenderSettings:
    """The settings for the actors. An actor has another working folder, so relative paths are made absolute."""
    return settings.for_workers().model_copy(update={"weights_dir": settings.weights_dir.resolve()})

"""Chooses the engine of a job and makes the task for the worker.

Knows the registry, which never loads an engine. Does not know workers, HTTP or the store.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.engines.ask import Ask, check_captions, check_text
from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.options import Chosen, choose_options
from lipsync_server.engines.registry import Registry, cannot_run
from lipsync_server.errors import EngineUnavailable, LipsyncError, NotReady
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.model import Job, JobSpec
from lipsync_server.settings import Settings
from lipsync_server.workers.task import RenderTask

log = logging.getLogger(__name__)

_FRESH_S = 10.0
ANSWER_S = 10.0
"""Seconds without an answer after which the volume of the model files counts as stuck.

A disk that spins up takes less.
"""


@dataclass(frozen=True)
class Offer:
    """The registry's answer at one moment. error: why `auto` has no engine."""

    engines: tuple[EngineInfo, ...]
    default: str
    reason: str
    error: LipsyncError | None = None


class Planner:
    """Resolves engines and options. The registry reads files and hardware, so it runs in a thread; answers are kept."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._offer: Offer | None = None
        self._asked_at = 0.0
        self._lock = asyncio.Lock()
        self._asking: asyncio.Task[Offer] | None = None
        self._held_back: str | None = None
        self._why_held: Callable[[], str] = str

    def hold_back(self, engine: str, why: Callable[[], str]) -> None:
        """Mark `engine` as not ready, whatever files exist, so that its jobs wait. why: the reason as a sentence."""
        self._held_back, self._why_held, self._offer = engine, why, None

    def let_go(self) -> None:
        """End hold_back(). From then on the files on disk decide whether the engine can run."""
        self._held_back = self._offer = None

    async def offer(self) -> Offer:
        """The engines that can run here; the answer is at most ten seconds old.

        While the volume of the model files does not answer, the last answer is returned. Raises NotReady before the
        first.
        """
        async with self._lock:
            if self._offer is None or time.monotonic() - self._asked_at > _FRESH_S:
                self._asked_at = time.monotonic()
                trouble = await self._ask_again()
                if trouble and self._offer is None:
                    raise NotReady(f"{trouble} So no engine is known. Check its volume.", retry_after_s=30)
                if trouble:
                    log.warning("%s The engines of the last answer are offered.", trouble)
            assert self._offer is not None
            return self._offer

    async def _ask_again(self) -> str:
        """Store a new answer and return ""; if the folder of model files does not answer, return the reason."""
        self._asking = self._asking or asyncio.create_task(in_daemon_thread(self._ask))
        if not (await asyncio.wait({self._asking}, timeout=ANSWER_S))[0]:
            return "The server's folder of weights does not answer."
        asked, self._asking = self._asking, None
        try:
            self._offer = asked.result()
        except OSError as error:
            return f"The server's folder of weights cannot be read ({error.strerror})."
        self._asked_at = time.monotonic()
        return ""

    def _ask(self) -> Offer:
        """The registry's answer now, with the held-back engine marked. Reads files, so it may wait for a disk."""
        held, settings = self._held_back, self._settings
        engines = tuple(
            replace(info, available=False, reason=self._why_held()) if info.name == held else info
            for info in self._registry.describe(settings)
        )
        if held and (settings.engine == held or (settings.engine == "auto" and not settings.preview_while_loading)):
            return Offer(engines, held, self._why_held())
        try:
            default, reason = (self._registry.without(held) if held else self._registry).choose(settings)
        except LipsyncError as error:
            return Offer(engines, "", error.detail, error)
        return Offer(engines, default, reason)

    async def resolve(self, wanted: str) -> str:
        """Return the engine that the name `wanted` stands for now. Raises EngineUnavailable with the remedy."""
        offer = await self.offer()
        if wanted == "auto":
            if offer.error is not None:
                raise offer.error
            return offer.default
        for info in offer.engines:
            if info.name == wanted:
                if info.available or wanted == self._held_back:
                    return wanted
                raise cannot_run(wanted, info.reason)
        self._registry.check_name(wanted)
        raise EngineUnavailable(f"Engine {wanted} is not known yet; try again in a moment.", field="engine")

    async def runnable(self, engines: frozenset[str]) -> dict[str, str]:
        """For a worker that has `engines`: a map from requested names, "auto" included, to the engine that runs."""
        offer = await self.offer()
        runnable = {name: name for name in engines if name != self._held_back}
        if offer.default in runnable:
            runnable["auto"] = offer.default
        return runnable

    async def check(self, spec: JobSpec) -> JobSpec:
        """Check the engine and options of the spec and return the spec. Raises InvalidInput or EngineUnavailable.

        `auto` is resolved when the job starts, unless the caller sent options that only one engine knows.
        """
        engine = await self.resolve(spec.engine)
        await asyncio.to_thread(self._choose_options, engine, spec.ask)
        check_text(spec.ask)
        own_files = self._settings.executor == "process"  # the machines of a cluster have model files of their own
        await asyncio.to_thread(check_captions, spec.ask, self._settings.weights_dir if own_files else None)
        return replace(spec, engine=engine) if spec.ask.options else spec

    async def task(self, job: Job, files: JobFiles) -> RenderTask:
        """The task that a worker renders for a started job."""
        scratch = await asyncio.to_thread(files.scratch, job.id)
        return RenderTask(
            task_id=job.id,
            engine=job.engine,
            image=files.image(job.id),
            audio=files.speech(job.id) if job.spec.ask.is_spoken else files.audio(job.id),
            output=files.video(job.id),
            scratch=scratch,
            ask=job.spec.ask,
            second_audio=files.second_audio(job.id) if job.spec.second_audio_name is not None else None,
            progressive=True,
            sheet=files.sheet(job.id),
            limit_s=self._settings.job_timeout_s,
            n_crashes=job.n_crashes,
        )

    def _choose_options(self, engine: str, ask: Ask) -> Chosen:
        return choose_options(engine, self._registry.options_model(engine), ask, self._settings)

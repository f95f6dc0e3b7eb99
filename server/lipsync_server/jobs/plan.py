"""From what a caller asked for to the engine and options that a worker gets.

Knows the registry (which never loads an engine) and the settings' defaults. Does not know workers, HTTP or the store.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.registry import Registry
from lipsync_server.errors import EngineUnavailable, InvalidInput, LipsyncError
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.model import Job, JobSpec
from lipsync_server.settings import Settings
from lipsync_server.workers.task import RenderTask

_FRESH_S = 10.0
# Fields that every job may carry; an engine that does not know one is not given it.
_SHARED = ("preset", "resolution", "seed", "face_index", "face_box")
_DEFAULTED = ("preset", "resolution", "steps")


@dataclass(frozen=True)
class Offer:
    """What the registry said at one moment. `error` is why `auto` has no engine."""

    engines: tuple[EngineInfo, ...]
    default: str
    reason: str
    error: LipsyncError | None = None


class Planner:
    """Resolves engines and options. Asking looks at files and hardware, so it happens in a thread and is kept."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._offer: Offer | None = None
        self._asked_at = 0.0
        self._lock = asyncio.Lock()
        self._held_back: str | None = None
        self._why_held: Callable[[], str] = str

    def hold_back(self, engine: str, why: Callable[[], str]) -> None:
        """`engine` cannot run yet, whatever lies on disk: jobs that ask for it wait. `why` says so in words."""
        self._held_back, self._why_held, self._offer = engine, why, None

    def let_go(self) -> None:
        """What was held back is judged by what lies on disk from now on."""
        self._held_back = self._offer = None

    async def offer(self) -> Offer:
        """What can run here, at most ten seconds old."""
        async with self._lock:
            if self._offer is None or time.monotonic() - self._asked_at > _FRESH_S:
                self._offer = await asyncio.to_thread(self._ask)
                self._asked_at = time.monotonic()
            return self._offer

    def _ask(self) -> Offer:
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
        """The engine that `wanted` means now; raises EngineUnavailable with what to do."""
        offer = await self.offer()
        if wanted == "auto":
            if offer.error is not None:
                raise offer.error
            return offer.default
        for info in offer.engines:
            if info.name == wanted:
                if info.available or wanted == self._held_back:
                    return wanted
                raise EngineUnavailable(f"Engine {wanted} cannot run here: {info.reason}", field="engine")
        known = ", ".join(["auto", *(info.name for info in offer.engines)])
        raise EngineUnavailable(f"There is no engine {wanted!r}; there are: {known}.", field="engine")

    async def runnable(self, engines: frozenset[str]) -> dict[str, str]:
        """For a worker that has `engines`: what may be asked for -> the engine that then runs."""
        offer = await self.offer()
        runnable = {name: name for name in engines if name != self._held_back}
        if offer.default in runnable:
            runnable["auto"] = offer.default
        return runnable

    async def check(self, spec: JobSpec) -> JobSpec:
        """The spec, its engine and options checked; raises InvalidInput or EngineUnavailable.

        `auto` stays open until the job starts, unless the caller gave options that only one engine knows.
        """
        engine = await self.resolve(spec.engine)
        options = await asyncio.to_thread(self._options, spec, engine)
        self._validate(options, engine)
        return replace(spec, engine=engine) if spec.options else spec

    async def task(self, job: Job, files: JobFiles) -> RenderTask:
        """What a worker needs to render a started job."""
        options = await asyncio.to_thread(self._options, job.spec, job.engine)
        scratch = await asyncio.to_thread(files.scratch, job.id)
        return RenderTask(
            task_id=job.id,
            engine=job.engine,
            image=files.image(job.id),
            audio=files.audio(job.id),
            output=files.video(job.id),
            scratch=scratch,
            prompt=job.spec.prompt,
            second_audio=files.second_audio(job.id) if job.spec.second_audio_name is not None else None,
            options=options,
        )

    def _options(self, spec: JobSpec, engine: str) -> dict[str, object]:
        known = self._registry.options_model(engine).model_fields
        defaults = {name: getattr(self._settings, name) for name in _DEFAULTED}
        asked = {name: getattr(spec, name) for name in _SHARED}
        given = {name: value for name, value in asked.items() if value is not None}
        values = {name: value for name, value in {**defaults, **given}.items() if name in known and value is not None}
        return {**values, **spec.options}

    def _validate(self, options: dict[str, object], engine: str) -> None:
        try:
            self._registry.options_model(engine).model_validate(options)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "options"
            raise InvalidInput(
                f"Option {name} of engine {engine}: {first['msg']}. GET /v1/engines lists the options.", field=name
            ) from error

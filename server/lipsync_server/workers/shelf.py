"""The loaded engines of one worker: made on first use, kept loaded, at most one big engine at a time.

A GPU has memory for one big engine only. Knows the registry and the Engine interface; does not know tasks.
"""

import logging
from collections.abc import Iterator

from lipsync_server.engines.base import Engine, Frames, RenderContext, RenderRequest, Report, no_report
from lipsync_server.engines.registry import Registry
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)


class _HeldEngine:
    """An engine, and whether its load() has succeeded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.loaded = False

    def load(self, report: Report = no_report) -> None:
        if not self.loaded:
            self._engine.load(report)
            self.loaded = True

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        return self._engine.generate(request, context)

    def close(self) -> None:
        self.loaded = False
        self._engine.close()


class EngineShelf:
    """Engines by name. Not thread-safe."""

    def __init__(self, registry: Registry, settings: EngineSettings) -> None:
        self._registry, self._settings = registry, settings
        self._held: dict[str, _HeldEngine] = {}

    def take(self, name: str) -> Engine:
        """Return engine `name`, loaded or not. Any other big engine is closed first.

        Raises EngineUnavailable with the remedy when the engine cannot run here.
        """
        if name not in self._held:
            self._registry.require(name, self._settings)
            if not self._registry.entries[name].light:
                for other in [held for held in self._held if not self._registry.entries[held].light]:
                    self.drop(other)
            self._held[name] = _HeldEngine(self._registry.create(name, self._settings))
        return self._held[name]

    def drop_unloaded(self) -> None:
        """Remove engines whose load() failed or was interrupted; the next use makes a new one."""
        for name in [name for name, engine in self._held.items() if not engine.loaded]:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Close and remove engine `name`."""
        engine = self._held.pop(name)
        try:
            engine.close()
        except Exception:  # an engine may raise anything, and its memory must be free for the next one
            log.exception("engine %s could not be closed; it is removed all the same", name)

    def holds(self) -> str:
        """The name of a loaded engine, a big one first; "" when none is loaded."""
        loaded = [name for name, engine in self._held.items() if engine.loaded]
        return min(loaded, key=lambda name: self._registry.entries[name].light, default="")

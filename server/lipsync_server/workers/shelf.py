"""The engines that one worker holds: made on first use, kept loaded, the big ones one at a time.

Knows the registry and the Engine interface; does not know who asks or what is rendered.
"""

import logging
from collections.abc import Callable, Iterator

from lipsync_server.engines.base import Engine, Frames, RenderContext, RenderRequest
from lipsync_server.engines.registry import Registry
from lipsync_server.settings import EngineSettings

log = logging.getLogger(__name__)


def _unheard(stage: str, done: float, total: float) -> None:
    """Progress that nobody listens to."""


class _HeldEngine:
    """An engine that remembers whether its load() came to its end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.loaded = False

    def load(self, report: Callable[[str, float, float], None] = _unheard) -> None:
        if not self.loaded:
            self._engine.load(report)
            self.loaded = True

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        return self._engine.generate(request, context)

    def close(self) -> None:
        self.loaded = False
        self._engine.close()


class EngineShelf:
    """Engines by name. Not for several threads at a time."""

    def __init__(self, registry: Registry, settings: EngineSettings) -> None:
        self._registry, self._settings = registry, settings
        self._held: dict[str, _HeldEngine] = {}

    def take(self, name: str) -> Engine:
        """Engine `name`, loaded or not yet. Any other big engine is closed first: a GPU holds one of them.

        Raises EngineUnavailable with what to do when it cannot run here.
        """
        if name not in self._held:
            self._registry.require(name, self._settings)
            if not self._registry.entries[name].light:
                for other in [held for held in self._held if not self._registry.entries[held].light]:
                    self.drop(other)
            self._held[name] = _HeldEngine(self._registry.create(name, self._settings))
        return self._held[name]

    def drop_unloaded(self) -> None:
        """Forget engines whose load failed or was interrupted; the next use makes them anew."""
        for name in [name for name, engine in self._held.items() if not engine.loaded]:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Close and forget engine `name`."""
        engine = self._held.pop(name)
        try:
            engine.close()
        except Exception:
            log.exception("engine %s could not be closed; it is forgotten all the same", name)

    def holds(self) -> str:
        """The name of the engine that is loaded, a big one first; "" when none is."""
        loaded = [name for name, engine in self._held.items() if engine.loaded]
        return min(loaded, key=lambda name: self._registry.entries[name].light, default="")

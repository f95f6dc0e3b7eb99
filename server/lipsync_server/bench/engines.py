"""The benchmark with random weights of each engine: its module `command` here, or an outside package's module `bench`.

Both have a function `measure(SectionRun)`. Knows no engine by name; the registry has the names.
"""

import importlib
import importlib.util
from collections.abc import Callable

from lipsync_server.bench.sections import SectionRun
from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.errors import InvalidInput

Measure = Callable[[SectionRun], None]


def measure_of(engine: str | None, registry: Registry = ENGINES) -> Measure:
    """The benchmark of an engine, or of the best engine that has one.

    Raises InvalidInput with the names of the engines that have a benchmark.
    """
    names = with_benchmark(registry)
    if (engine or names[0]) not in names:
        raise InvalidInput(f"--random-weights measures the engines {', '.join(names)}, not {engine!r}.", field="engine")
    measure: Measure = importlib.import_module(_module(engine or names[0], registry)).measure
    return measure


def with_benchmark(registry: Registry = ENGINES) -> list[str]:
    """The engines that have a benchmark with random weights, best first."""
    return [name for name in registry.entries if _has(_module(name, registry))]


def _has(module: str) -> bool:
    """Whether a module exists. The module is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around the module is not there
        return False


def _module(name: str, registry: Registry) -> str:
    """The name of an engine's benchmark module, which may not exist."""
    entry = registry.entries[name]
    return f"{entry.package}.bench" if entry.outside else f"{__package__}.{name}.command"

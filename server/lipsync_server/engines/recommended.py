"""The recommended profile of model files for a card, and for an engine, from the data sheets of the engines.

A profile is a named set of model files. `auto` never chooses an engine of another package, so no profile of such an
engine is recommended for a card. Knows the registry. Knows neither the files on this machine nor their download.
"""

from collections.abc import Sequence

from lipsync_server.engines.registry import ENGINES, Registry


def best_profile(registry: Registry = ENGINES) -> tuple[str, int]:
    """The profile of the best engine with a profile, and the least GPU memory in bytes of a card for it."""
    return next(iter(_by_engine(registry)), ("", 0))


def profile_for_card(gpu_bytes: int, registry: Registry = ENGINES) -> str:
    """The profile of the best engine for a card with so much memory; "" if the card is too small for every engine."""
    return next((profile for profile, least_bytes in _by_engine(registry) if gpu_bytes >= least_bytes), "")


def profile_of_engine(engine: str, profiles: Sequence[str], registry: Registry = ENGINES) -> str:
    """The recommended profile of one engine, else the first of its `profiles`."""
    suits = registry.data_sheet(engine).suits if engine in registry.entries else None
    return suits[0] if suits is not None and suits[0] in profiles else profiles[0]


def _by_engine(registry: Registry) -> list[tuple[str, int]]:
    """The profile and the least GPU memory of each engine of this project, best first."""
    names = (name for name, entry in registry.entries.items() if not entry.outside)
    return [suits for name in names if (suits := registry.data_sheet(name).suits) is not None]

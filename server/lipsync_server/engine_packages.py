"""The engines that other installed packages offer, by the entry points of the group `lipsync.engines`.

The registry of engines and the list of model files use this module. It imports nothing of such a package.
"""

import importlib.util
from importlib import metadata
from pathlib import Path

ENTRY_POINTS = "lipsync.engines"


def outside_packages() -> dict[str, str]:
    """The package of each offered engine, by the engine's name, in alphabetical order."""
    found = sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name)
    return {entry.name: entry.value for entry in found}


def package_folder(package: str) -> Path | None:
    """The folder of a package; None if the package does not exist or has no folder."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None

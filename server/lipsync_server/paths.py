"""Where the small files that ship with the project lie.

In a checkout they are in `weights/` and `server/lipsync_server/samples/`; an installed wheel carries them beside this
module (pyproject.toml puts them into `bundled/`). Knows nothing of downloads: `weights/` does.
"""

from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
SAMPLES_DIR = PACKAGE_DIR / "samples"
_CHECKOUT_WEIGHTS = PACKAGE_DIR.parents[1] / "weights"


def bundled(name: str) -> Path:
    """The path of a file that the project ships in `weights/`; raises FileNotFoundError with the name."""
    for folder in (PACKAGE_DIR / "bundled", _CHECKOUT_WEIGHTS):
        path = folder / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name} is missing from this installation; reinstall lipsync-server")

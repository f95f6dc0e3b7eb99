"""The paths of the small files that ship with the project.

In a checkout the files are in `weights/` and `server/lipsync_server/samples/`. An installed wheel has them beside this
module (pyproject.toml copies them to `bundled/`). Knows nothing of downloads: `weights/` does.
"""

import os
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
SAMPLES_DIR = PACKAGE_DIR / "samples"
_CHECKOUT_WEIGHTS = PACKAGE_DIR.parents[1] / "weights"


def signing_folder(data_dir: Path) -> Path:
    """The folder of the file that signs videos: in the data folder of a server, else in the user's settings folder.

    A render on the command line or in Python makes no data folder.
    """
    if data_dir.is_dir():
        return data_dir / "signing"
    home = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA")
    return (Path(home) if home else Path.home() / ".config") / "lipsync"


def bundled(name: str) -> Path:
    """The path of a file that the project ships in `weights/`. Raises FileNotFoundError with the name."""
    for folder in (PACKAGE_DIR / "bundled", _CHECKOUT_WEIGHTS):
        path = folder / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name} is missing from this installation; reinstall lipsync-server")

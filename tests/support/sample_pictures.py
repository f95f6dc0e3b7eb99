"""Pictures of faces for the tests of the preview engine.

The portraits of the contact sheets are committed. More pictures lie beside some checkouts; a test runs on these too
where they exist, and no test depends on them.
"""

from pathlib import Path

import numpy as np
from lipsync_server.engines.base import Frames
from lipsync_server.engines.preview.engine import fit_picture
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = (SAMPLES_DIR, _ROOT / "docs" / "contact-sheets" / "portraits", _ROOT.parent / "shared" / "samples")


def sample_picture(name: str) -> Frames:
    """The picture with this file name in the size of a video: uint8 RGB (H, W, 3)."""
    path = next(folder / name for folder in _FOLDERS if (folder / name).is_file())
    return fit_picture(np.array(Image.open(path).convert("RGB")))[0]


def present(*names: str) -> list[str]:
    """The file names of `names` that exist here; the committed ones always do."""
    return [name for name in names if any((folder / name).is_file() for folder in _FOLDERS)]

"""Pictures of faces for the tests of the preview engine: those of the contact sheets, and samples that some have."""

from pathlib import Path

import numpy as np
import pytest
from lipsync_server.engines.base import Frames
from lipsync_server.engines.preview.engine import fit_picture
from PIL import Image

_ROOT = Path(__file__).resolve().parents[2]
PORTRAITS = _ROOT / "docs" / "contact-sheets" / "portraits"


def shared_picture(name: str) -> Frames:
    """A sample picture in the size of a video: uint8 RGB (H, W, 3). Skips the test where the samples are missing."""
    path = _ROOT.parent / "shared" / "samples" / name
    if not path.is_file():
        pytest.skip("needs the sample pictures in ../shared/samples")
    return fit_picture(np.array(Image.open(path).convert("RGB")))[0]

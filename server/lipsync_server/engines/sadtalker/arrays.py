"""Array types of this engine, spelled here so that its networks import neither pydantic nor the engine interface."""

import numpy as np
from numpy.typing import NDArray

from lipsync_server.media_types import Speech as Speech

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Points = NDArray[np.float32]  # (n, 2) pixels, x right, y down
Rows = NDArray[np.float32]  # (n frames, coefficients)

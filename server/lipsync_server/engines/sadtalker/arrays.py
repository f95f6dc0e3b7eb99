"""Array types of this engine, spelled here so that its networks import neither pydantic nor the engine interface."""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Speech = NDArray[np.float32]  # mono, 16 kHz
Points = NDArray[np.float32]  # (n, 2) pixels, x right, y down
Rows = NDArray[np.float32]  # (n frames, coefficients)

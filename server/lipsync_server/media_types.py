"""Frames, speech and their rates: one definition for engines, models, media and benchmarks. Knows numpy only."""

import numpy as np
from numpy.typing import NDArray

FPS = 25
"""Frames a second of every finished video."""
SPEECH_RATE_HZ = 16_000
"""Samples a second of the speech that models get. The caller's own sound keeps its rate in the video."""

Frames = NDArray[np.uint8]
"""RGB: one picture (H, W, 3) or several (n, H, W, 3)."""
Speech = NDArray[np.float32]
"""Mono samples (n,) in [-1, 1] at SPEECH_RATE_HZ."""

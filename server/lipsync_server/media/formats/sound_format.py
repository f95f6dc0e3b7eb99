"""The format in which a recording is stored, and the limits on that format."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_server.errors import InvalidAudio
from lipsync_server.media.formats.container import Container

Block = NDArray[np.float32]
"""Samples (n, channels), full scale -1 to 1."""

RATES_HZ = range(4_000, 384_001)
MAX_CHANNELS = 32
MAX_SAMPLES_PER_S = 3_200_000
"""Over all channels: sixteen at 192 kHz. Silence compresses so well that a small file with more samples a second could
occupy a core for hours."""


@dataclass(frozen=True)
class SoundFormat:
    """The format of a recording. `layout` is FFmpeg's name of the channel layout ("stereo", "5.1")."""

    container: Container
    codec: str
    rate_hz: int
    channels: int
    layout: str

    def check(self) -> None:
        """Raises InvalidAudio for a format that is not used for speech."""
        rate, channels = self.rate_hz, self.channels
        if rate not in RATES_HZ or not 1 <= channels <= MAX_CHANNELS or rate * channels > MAX_SAMPLES_PER_S:
            raise InvalidAudio(
                f"The recording has {rate} samples a second in {channels} channel(s), which"
                " is no speech. Export it again as mono or stereo at 16 to 48 kHz."
            )

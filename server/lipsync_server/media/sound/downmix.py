"""Mixes several channels to one, without losing a voice that is in opposite phase on two of them.

A microphone cable with swapped wires, or a "stereo widener", inverts one channel. The average of both channels is then
silence, and the mouth would stay shut. Where the average has far less energy than the channels, the loudest channel is
used instead.
"""

import numpy as np
from numpy.typing import NDArray

from lipsync_server.media_types import Speech

_CANCELLED = 0.1
"""The average counts as cancelled below this share of the channels' mean energy. Unrelated channels keep 0.5."""


def to_mono(block: NDArray[np.float32]) -> Speech:
    """float32 (n, channels) to float32 (n,): the average, or the loudest channel where the average cancels."""
    average: Speech = block.mean(axis=1, dtype=np.float32)
    if block.shape[1] == 1:
        return average
    energies = np.einsum("nc,nc->c", block, block, dtype=np.float64)
    if float(np.dot(average.astype(np.float64), average)) >= _CANCELLED * float(energies.mean()):
        return average
    return np.ascontiguousarray(block[:, int(energies.argmax())])

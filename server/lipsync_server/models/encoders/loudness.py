"""Loudness of speech (ITU-R BS.1770, as pyloudnorm measures it) over recordings of any length.

Loudness is mean power after a filter that follows the ear (K-weighting: less bass, more treble), in decibels (LUFS). It
is measured in blocks of 0.4 s that overlap by three quarters; blocks of silence, and blocks 10 LU quieter than the
mean of the others, are left out (gating):

    loudness = -0.691 + 10 log10(mean square of the filtered samples of the loud blocks)

pyloudnorm needs several copies of the whole recording in memory, and at least 0.4 s of sound. Here the same filters run
piece by piece, and a recording under 0.4 s is measured as one block of its own length.
"""

import math

import numpy as np
from numpy.typing import NDArray
from pyloudnorm.iirfilter import IIRfilter
from scipy.signal import lfilter

from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

TARGET_LUFS = -23.0
_BLOCK_S = 0.4
_STEP = 0.25
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
# A value outside these limits is no loudness: the recording is silent, or is not sound at all.
_NOT_A_LOUDNESS = 100.0
_PIECE = 30 * SPEECH_RATE_HZ


def gain_to_target(speech: Speech, rate_hz: int = SPEECH_RATE_HZ) -> float:
    """Return the factor that scales mono `speech` to -23 LUFS; 1 for silence."""
    lufs = integrated_loudness(speech, rate_hz)
    return 1.0 if abs(lufs) > _NOT_A_LOUDNESS else float(10 ** ((TARGET_LUFS - lufs) / 20))


def integrated_loudness(speech: Speech, rate_hz: int = SPEECH_RATE_HZ) -> float:
    """Gated loudness of mono `speech` (float32, any length of at least one sample) in LUFS; -inf for silence."""
    duration_s = len(speech) / rate_hz
    block_s = min(_BLOCK_S, duration_s)
    n_blocks = int(np.round((duration_s - block_s) / (block_s * _STEP))) + 1
    # These are pyloudnorm's own expressions, because their rounding decides which sample belongs to which block.
    starts = np.array([int(block_s * (j * _STEP) * rate_hz) for j in range(n_blocks)])
    stops = np.minimum([int(block_s * (j * _STEP + 1) * rate_hz) for j in range(n_blocks)], len(speech))
    energy = _energy_until(speech, np.concatenate([starts, stops]), rate_hz)
    mean_square = (energy[n_blocks:] - energy[:n_blocks]) / (block_s * rate_hz)
    loudness = _lufs(mean_square)
    loud = loudness >= _ABSOLUTE_GATE_LUFS
    if not loud.any():
        return -math.inf
    relative_gate = _lufs(mean_square[loud].mean()) + _RELATIVE_GATE_LU
    loud = (loudness > relative_gate) & (loudness > _ABSOLUTE_GATE_LUFS)
    return float(_lufs(mean_square[loud].mean())) if loud.any() else -math.inf


def _lufs(mean_square: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        level: NDArray[np.float64] = -0.691 + 10.0 * np.log10(mean_square)
    return level


def _energy_until(speech: Speech, samples: NDArray[np.int64], rate_hz: int) -> NDArray[np.float64]:
    """Sum of squares of the K-weighted `speech` before each of `samples`."""
    filters = [
        IIRfilter(4.0, 1 / np.sqrt(2), 1500.0, rate_hz, "high_shelf"),
        IIRfilter(0.0, 0.5, 38.0, rate_hz, "high_pass"),
    ]
    states = [np.zeros(2) for _ in filters]
    result = np.zeros(len(samples))
    total = 0.0
    for start in range(0, len(speech), _PIECE):
        piece = np.asarray(speech[start : start + _PIECE], np.float64)
        for index, stage in enumerate(filters):
            piece, states[index] = lfilter(stage.b, stage.a, piece, zi=states[index])
            piece = piece * stage.passband_gain
        running = total + np.concatenate([[0.0], np.cumsum(np.square(piece))])
        inside = (samples >= start) & (samples <= start + len(piece))
        result[inside] = running[samples[inside] - start]
        total = float(running[-1])
    return result

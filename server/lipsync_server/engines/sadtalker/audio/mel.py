"""Speech -> mel spectrogram -> the 80 x 16 window of sound around each video frame, for any stretch of a recording.

Works in float64 on a 16 kHz float32 array, which may be a memory map of half an hour: only the samples of a window are
read. The constants are Wav2Lip's, with which the published networks were trained.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lipsync_server.media_types import FPS, SPEECH_RATE_HZ, Speech

SAMPLES_PER_FRAME = SPEECH_RATE_HZ // FPS
HOP, N_FFT, N_BANDS = 200, 800, 80
COLUMNS_PER_SECOND = SPEECH_RATE_HZ // HOP
WINDOW_COLUMNS = 16
_LOWEST_HZ, _HIGHEST_HZ = 55.0, 7600.0
_PREEMPHASIS = 0.97
_MIN_DB, _REFERENCE_DB, _MAX_VALUE = -100.0, 20.0, 4.0


def n_whole_frames(n_samples: int) -> int:
    """Number of frames whose sound is complete. The reference renders these; the engine itself rounds up and pads."""
    return n_samples // SAMPLES_PER_FRAME


def n_columns(n_frames: int) -> int:
    """Mel columns of `n_frames` video frames (3.2 per frame, and one)."""
    return SAMPLES_PER_FRAME * n_frames // HOP + 1


def first_column(frame: int) -> int:
    """The first mel column of a frame's window, before clamping; rounds towards zero."""
    return int(COLUMNS_PER_SECOND * (frame - 2) / FPS)


@cache
def mel_basis() -> NDArray[np.float32]:
    """(80, 401) triangular bands, Slaney's scale and area normalisation."""
    edges_hz = _slaney_to_hz(np.linspace(_hz_to_slaney(_LOWEST_HZ), _hz_to_slaney(_HIGHEST_HZ), N_BANDS + 2))
    bins_hz = np.linspace(0, SPEECH_RATE_HZ / 2, N_FFT // 2 + 1)
    ramps = edges_hz[:, None] - bins_hz[None, :]
    widths = np.diff(edges_hz)[:, None]
    triangles = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    normalised = triangles * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    return normalised.astype(np.float32)


def _hz_to_slaney(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + float(np.log(hz / 1000)) / (np.log(6.4) / 27)


def _slaney_to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((np.log(6.4) / 27) * (mels - 15)))


def mel_columns(speech: Speech, n_samples: int, first: int, stop: int) -> NDArray[np.float64]:
    """Columns [first, stop) of the mel spectrogram of the first `n_samples`: (stop - first, 80) in [-4, 4].

    Where `speech` is shorter than `n_samples` it is followed by silence.
    """
    start, end = first * HOP - N_FFT // 2, (stop - 1) * HOP + N_FFT // 2
    padded = np.zeros(end - start + 1)  # from start - 1, for the pre-emphasis of the first sample
    low, high = max(0, start - 1), min(len(speech), n_samples, end)
    if high > low:
        padded[low - start + 1 : high - start + 1] = speech[low:high]
    emphasised = padded[1:] - _PREEMPHASIS * padded[:-1]
    # The reference filters the kept samples only: beyond the last one there is no tail of the filter.
    emphasised[max(0, n_samples - start) :] = 0
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, N_FFT)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    magnitude = np.abs(np.fft.rfft(frames * hann, axis=1))
    mel = magnitude @ mel_basis().T.astype(np.float64)
    decibels = 20 * np.log10(np.maximum(1e-5, mel)) - _REFERENCE_DB
    scaled = 2 * _MAX_VALUE * (decibels - _MIN_DB) / -_MIN_DB - _MAX_VALUE
    return np.asarray(np.clip(scaled, -_MAX_VALUE, _MAX_VALUE))


def mel_windows(speech: Speech, n_frames: int, first: int, stop: int) -> NDArray[np.float32]:
    """The windows of video frames [first, stop) of a recording of `n_frames` frames: (stop - first, 80, 16)."""
    last = n_columns(n_frames) - 1
    starts = np.array([first_column(i) for i in range(first, stop)])
    columns = np.clip(starts[:, None] + np.arange(WINDOW_COLUMNS), 0, last)
    low, high = int(columns.min()), int(columns.max()) + 1
    mel = mel_columns(speech, n_frames * SAMPLES_PER_FRAME, low, high)
    return mel[columns - low].transpose(0, 2, 1).astype(np.float32)

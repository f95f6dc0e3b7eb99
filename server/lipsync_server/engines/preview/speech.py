"""From speech to the mouth: opening, width, lip pressure, loudness and tongue for every video frame.

Small convolutional networks (weights/preview_mouth.npz, an ensemble) read a log mel spectrum, that is the sound's
energy in 40 frequency bands every 10 ms. A linear step (readout.py) computes the mouth's opening from their outputs.
Two rules follow: the lips are shut in pauses, and on p, b and m. The recording is processed in windows, so memory does
not grow with its length. Knows numpy and no picture. server/training/preview_mouth, outside the package, trains the
networks and the linear step.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import FPS, SPEECH_RATE_HZ, Speech
from lipsync_server.engines.preview.readout import (
    FIRST_PHONE,
    LIKE_TH,
    PRESS,
    SPEAKING,
    TONGUE_TIP,
    WIDTH,
    Readout,
    evidence_of,
)
from lipsync_server.paths import bundled

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

GRID_HZ: Final = 100
_HOP: Final = SPEECH_RATE_HZ // GRID_HZ
_WINDOW: Final = 400
_FFT: Final = 512
N_MELS: Final = 40

# Seconds of sound to each side from which the speaker's level and the microphone's sound are estimated.
_AROUND_S: Final = 5
_BLOCK_S: Final = 48
_MARGIN_S: Final = _AROUND_S + 2

# A predicted opening below _SHUT_BELOW means shut lips. A press above the probability _PRESS_AT closes them. In faint
# sound the mouth opens less, by up to the share _LOUDNESS. docs/preview.md has the people on whom they were chosen.
_SHUT_BELOW: Final = 0.3
_PRESS_AT: Final = 0.25
_LOUDNESS: Final = 0.5

# The probability of l, n or th from which the tongue's tip rises, and at which it touches the teeth. At 0.2, two thirds
# of these sounds are found in the two synthetic recordings of the tests, and 9 % of the others are taken for them.
_TIP_LEAVES_AT, _TIP_ARRIVES_AT = 0.1, 0.3
# The networks heard little th, so its probability is low even where th is spoken. f and s sound like th: a share of
# their probabilities is subtracted. docs/preview.md has the recordings on which these figures were chosen.
_TH_LEAVES_AT, _TH_ARRIVES_AT = 0.009, 0.022
_TAKEN_FOR_TH: Final = {"F": 0.02, "V": 0.02, "S": 0.01, "Z": 0.01}

# A recording whose loud parts stay under this (dB of full scale) is silence.
_SILENCE_DB: Final = -66.0


def mouth_track(speech: Speech, n_frames: int, fps: int = FPS) -> Array:
    """The mouth at every video frame: float32 (n_frames, 3), the first three columns of `speech_track`."""
    return speech_track(speech, n_frames, fps)[:, :3]


def speech_track(speech: Speech, n_frames: int, fps: int = FPS) -> Array:
    """Mouth and loudness at every video frame: float32 (n_frames, 5). Frame i is shown at i / fps seconds.

    Columns: opening (0 shut .. 1 wide open), width (-1 rounded .. 1 spread), press (0 .. 1, lips firmly pressed),
    loudness (0 no speech .. 1 loud speech, relative to this recording), tongue (1: its tip at the upper teeth, as in l,
    n and th). speech: float32 (n_samples,), mono at 16 kHz;
    may be a memory map. Frames past its end have a shut mouth.
    """
    out = np.zeros((n_frames, 5), np.float32)
    n_grid = len(speech) // _HOP + 1
    loud_db = loud_level(speech)
    if loud_db < _SILENCE_DB:
        return out
    times = np.arange(n_frames) / fps * GRID_HZ
    for start in range(0, n_grid, _BLOCK_S * GRID_HZ):
        stop = min(n_grid, start + _BLOCK_S * GRID_HZ)
        inside = np.flatnonzero((times >= start) & (times < stop) & (times <= n_grid - 1))
        if not len(inside):
            continue
        first = max(0, start - _MARGIN_S * GRID_HZ)
        last = min(n_grid, stop + _MARGIN_S * GRID_HZ)
        grid = _grid_track(log_mel(speech, first, last), loud_db)
        for column in range(out.shape[1]):
            out[inside, column] = np.interp(times[inside], np.arange(first, last), grid[:, column])
    return out


def _tidy(samples: Speech) -> Array:
    """`samples` with NaN as 0 and peaks clipped to 4 times full scale, float32 (n,)."""
    return np.clip(np.nan_to_num(np.asarray(samples, np.float32)), -4, 4)


def loud_level(speech: Speech) -> float:
    """The level of the loudest twentieth of the recording, in dB of full scale. speech: float32 (n,) at 16 kHz."""
    counts = np.zeros(140, np.int64)
    step = 60 * SPEECH_RATE_HZ
    for start in range(0, len(speech), step):
        block = _tidy(speech[start : start + step])
        block = block[: len(block) // _HOP * _HOP].reshape(-1, _HOP)
        db = 10 * np.log10((block**2).mean(1) + 1e-13)
        counts += np.bincount(np.clip(-db, 0, 139).astype(np.int64), minlength=140)
    total = counts.sum()
    if not total:
        return -139.0
    return -float(np.searchsorted(np.cumsum(counts), 0.05 * total))


@lru_cache(maxsize=1)
def _mel_bank() -> Array:
    """Triangular filters from 60 to 7600 Hz, even on the mel scale: float32 (N_MELS, bins)."""

    def mel(hz: float) -> float:
        return 2595 * float(np.log10(1 + hz / 700))

    edges = 700 * (10 ** (np.linspace(mel(60.0), mel(7600.0), N_MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / SPEECH_RATE_HZ)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(speech: Speech, first: int, last: int) -> Array:
    """Log mel spectrum of the steps `first` to `last` (10 ms each): float32 (last - first, N_MELS).

    speech: float32 (n_samples,), mono at 16 kHz. Each row is the natural logarithm of the power of a 25 ms window that
    is centred on the step. Samples outside the recording count as silence.
    """
    begin = first * _HOP - _WINDOW // 2
    end = (last - 1) * _HOP + _WINDOW // 2
    body = _tidy(speech[max(0, begin - 1) : end])
    padded = np.zeros(end - begin + 1, np.float32)
    at = max(0, 1 - begin)
    padded[at : at + len(body)] = body
    padded = padded[1:] - np.float32(0.97) * padded[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window = np.hanning(_WINDOW).astype(np.float32)
    power = np.empty((len(frames), N_MELS), np.float32)
    for k in range(0, len(frames), 1000):
        spectrum = np.fft.rfft(frames[k : k + 1000] * window, _FFT)
        power[k : k + 1000] = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ _mel_bank().T
    # The added floor is about one quantisation step of 16-bit sound: the logarithm of digital silence stays finite.
    log_power: Array = np.log(power + np.float32(1e-6))
    return log_power


def normalise(mel: Array, loud_db: float) -> tuple[Array, Array]:
    """Remove the differences between speakers, microphones and loudness from a log mel spectrum.

    mel: float32 (n, N_MELS). loud_db: `loud_level` of the whole recording. Returns features float32 (n, N_MELS + 1),
    whose last column is the level, and the loudness level 0..1, float32 (n,). Every statistic is taken over 5 s to
    both sides at whole seconds and interpolated, so the result does not depend on where a window of a recording begins.
    """
    n = len(mel)
    energy = mel[:, 3:30].mean(1)
    centres = np.arange(0, n + GRID_HZ, GRID_HZ)
    reach = _AROUND_S * GRID_HZ
    # In a long quiet passage, loud means at least the recording's loud level minus 18 dB.
    least_loud = _energy_of(loud_db - 18)
    quiet, loud = np.empty(len(centres)), np.empty(len(centres))
    mean = np.empty((len(centres), mel.shape[1]))
    for k, centre in enumerate(centres):
        part = slice(max(0, min(int(centre), n - 1) - reach), min(n, int(centre) + reach))
        quiet[k], loud[k] = np.percentile(energy[part], [5, 95])
        loud[k] = max(loud[k], least_loud)
        weight = np.clip((energy[part] - (loud[k] - 4.5)) / 2, 0, 1) + 1e-3
        mean[k] = weight @ mel[part] / weight.sum()
    at = np.arange(n)
    quiet_at, loud_at = np.interp(at, centres, quiet), np.interp(at, centres, loud)
    level = _level(energy, quiet_at, loud_at)
    index, share = at // GRID_HZ, (at % GRID_HZ / GRID_HZ)[:, None]
    centre_mel = mean[index] * (1 - share) + mean[index + 1] * share
    features = np.clip((mel - centre_mel) / 2.0, -4, 3)
    return np.concatenate([features, 2 * level[:, None] - 1], 1).astype(np.float32), level.astype(np.float32)


def _energy_of(db: float) -> float:
    """The approximate mean log mel energy of speech at the level `db`. Includes pre-emphasis and filter areas."""
    return db * float(np.log(10)) / 10 + 4.0


def _level(
    energy: NDArray[np.float64] | Array, quiet: NDArray[np.float64], loud: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The loudness level, float64 (n,): 0 at the noise floor + 6 dB (or 45 dB under loud speech), 1 at loud speech."""
    low = np.minimum(np.maximum(loud - 10.4, quiet + 1.4), loud - 4.1)
    return np.clip((energy - low) / (loud - low), 0, 1)


@dataclass(frozen=True)
class Network:
    """Dilated convolutions over time with residual connections. Batch norms are part of the kernels.

    kernels: float32 (taps, inputs, outputs) each. biases: float32 (outputs,) each. dilations: one for each kernel.
    head: float32 (channels, outputs). head_bias: float32 (outputs,).
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    dilations: tuple[int, ...]
    head: Array
    head_bias: Array

    def __call__(self, features: Array) -> Array:
        """The outputs for features float32 (n, N_MELS + 1) at 100 Hz: float32 (n, outputs).

        Inside, the network computes at 50 Hz.
        """
        x = np.maximum(_convolve(features, self.kernels[0], self.biases[0], self.dilations[0], stride=2), 0)
        for kernel, bias, dilation in zip(self.kernels[1:], self.biases[1:], self.dilations[1:], strict=True):
            x += np.maximum(_convolve(x, kernel, bias, dilation), 0)
        half = x @ self.head + self.head_bias
        out = np.repeat(half, 2, 0)[: len(features)]
        out[1:-1:2] = (half[: len(out[1:-1:2])] + half[1 : len(out[1:-1:2]) + 1]) / 2
        return out


def _convolve(x: Array, kernel: Array, bias: Array, dilation: int, stride: int = 1) -> Array:
    """Convolution over time with zeros beyond the ends, all float32.

    x: (n, i). kernel: (taps, i, o). bias: (o,). Returns (ceil(n / stride), o).
    """
    n, taps = len(x), len(kernel)
    reach = taps // 2 * dilation
    padded = np.concatenate([np.zeros((reach, x.shape[1]), np.float32), x, np.zeros((reach, x.shape[1]), np.float32)])
    out = np.tile(bias, (-(-n // stride), 1))
    for tap in range(taps):
        out += padded[tap * dilation : tap * dilation + n : stride] @ kernel[tap]
    return out


@lru_cache(maxsize=1)
def _shipped() -> tuple[tuple[Network, ...], Readout]:
    """The networks and the linear step of this package."""
    path = bundled("preview_mouth.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return load_networks(path), Readout.of(arrays)


def load_networks(path: Path) -> tuple[Network, ...]:
    """The networks in the .npz file `path`; `predict` averages their outputs."""
    with np.load(path, allow_pickle=False) as z:
        return tuple(
            Network(
                kernels=tuple(z[f"net{i}_kernel{k}"].astype(np.float32) for k in range(len(z[f"net{i}_dilations"]))),
                biases=tuple(z[f"net{i}_bias{k}"].astype(np.float32) for k in range(len(z[f"net{i}_dilations"]))),
                dilations=tuple(int(d) for d in z[f"net{i}_dilations"]),
                head=z[f"net{i}_head"].astype(np.float32),
                head_bias=z[f"net{i}_head_bias"].astype(np.float32),
            )
            for i in range(int(z["n_networks"]))
        )


def predict(features: Array, networks: tuple[Network, ...]) -> Array:
    """The mean output of `networks`: features float32 (n, N_MELS + 1) -> float32 (n, outputs).

    Columns: opening, width, logit of press, logit of speaking, then one logit for each class of phones (speech sounds).
    """
    total = networks[0](features)
    for network in networks[1:]:
        total += network(features)
    return total / np.float32(len(networks))


def _grid_track(mel: Array, loud_db: float) -> Array:
    """Opening, width, press, loudness and tongue every 10 ms: float32 (n, 5). mel: float32 (n, N_MELS)."""
    networks, readout = _shipped()
    features, level = normalise(mel, loud_db)
    evidence = evidence_of(predict(features, networks))
    talking = _smooth(talking_steps(evidence[:, SPEAKING], level).astype(np.float32), 4.0)
    press = np.clip(1.1 * _smooth((evidence[:, PRESS] > _PRESS_AT).astype(np.float32), 1.5), 0, 1)
    opening = np.clip(_smooth(readout(evidence), 1.8) - _SHUT_BELOW, 0, 1)
    opening *= (1 - _LOUDNESS + _LOUDNESS * _smooth(level, 6.0)) * (1 - press) * np.clip(1.1 * talking - 0.05, 0, 1)
    width = _smooth(evidence[:, WIDTH], 4.0) * talking
    # Averaged over 40 ms, so that a video frame of 25 per second misses no sound.
    loudness = np.clip(_smooth(level, 2.0) * talking, 0, 1)
    tongue = _tongue_tip(evidence) * talking
    return np.stack(
        [np.clip(_smooth(opening, 1.0), 0, 1), np.clip(width, -1, 1), press * talking, loudness, tongue], axis=1
    )


def _tongue_tip(evidence: Array) -> Array:
    """The height of the tongue's tip, (n,): 0 at rest, 1 at the upper teeth. evidence: float32 (n, n_outputs)."""
    at_teeth = evidence[:, [FIRST_PHONE + place for place in TONGUE_TIP.values()]].sum(axis=1)
    th = evidence[:, [FIRST_PHONE + TONGUE_TIP[name] for name in ("TH", "DH")]].sum(axis=1)
    for name, share in _TAKEN_FOR_TH.items():
        th = th - np.float32(share) * evidence[:, FIRST_PHONE + LIKE_TH[name]]
    any_tip = (_smooth(at_teeth, 2.0) - _TIP_LEAVES_AT) / (_TIP_ARRIVES_AT - _TIP_LEAVES_AT)
    th_tip = (_smooth(th, 2.0) - _TH_LEAVES_AT) / (_TH_ARRIVES_AT - _TH_LEAVES_AT)
    return np.asarray(np.clip(np.maximum(any_tip, th_tip), 0, 1), np.float32)


def talking_steps(speaking: Array, level: Array) -> Mask:
    """True where somebody speaks, (n,); gaps of up to 200 ms are bridged."""
    talking = speaking * (level > 0.02) > 0.5
    return _bridge(talking, 20)


def _bridge(mask: Mask, longest: int) -> Mask:
    """Fill inner gaps of at most `longest` samples."""
    out = mask.copy()
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    for stop, start in zip(stops[:-1], starts[1:], strict=True):
        if start - stop <= longest:
            out[stop:start] = True
    return out


def _smooth(x: Array, sigma: float) -> Array:
    """Gaussian smoothing of float32 (n,). sigma: in steps of 10 ms. The first and last value repeat beyond the ends."""
    reach = int(np.ceil(3.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(x.astype(np.float32), reach, mode="edge")
    return np.convolve(padded, taps / taps.sum(), "valid").astype(np.float32)

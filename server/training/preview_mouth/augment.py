"""Make clean synthetic speech sound like an upload: other throats, rooms, microphones, codecs and noise.

Knows arrays only. Every function takes and returns 16 kHz float32 mono, and gets its random generator from the caller.
"""

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, fftconvolve, sosfilt

RATE_HZ = 16_000
Audio = NDArray[np.float32]


def warp(x: Audio, factor: float) -> Audio:
    """Play faster (above 1): pitch and formants rise, as in a smaller speaker. Divide the phone times by `factor`."""
    return soxr.resample(x, RATE_HZ * factor, RATE_HZ, quality="LQ").astype(np.float32)


def equalise(x: Audio, rng: np.random.Generator) -> Audio:
    """Apply a random smooth frequency response of about +-8 dB, and a tilt."""
    n = next_fast_len(len(x), real=True)
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    octaves = np.log2(np.maximum(hz, 60) / 1000)
    points = np.interp(octaves, np.linspace(-4, 3, 9), rng.normal(0, 4, 9))
    gain = 10 ** ((points + rng.normal(0, 1.5) * octaves) / 20)
    return np.asarray(irfft(rfft(x, n) * gain.astype(np.float32), n)[: len(x)], np.float32)


def reverb(x: Audio, rng: np.random.Generator) -> Audio:
    """Add the echo of a room: exponentially decaying noise behind the direct sound."""
    t60 = rng.uniform(0.1, 0.7)
    t = np.arange(int(t60 * RATE_HZ)) / RATE_HZ
    tail = rng.normal(0, 1, len(t)) * np.exp(-6.9 * t / t60)
    tail[: int(0.004 * RATE_HZ)] = 0
    tail *= 10 ** (rng.uniform(-14, 2) / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return np.asarray(fftconvolve(x, tail.astype(np.float32))[: len(x)], np.float32)


def band_limit(x: Audio, rng: np.random.Generator) -> Audio:
    """Limit the band as a telephone, a cheap microphone or a low bit rate does."""
    high = rng.choice([3400, 4000, 5500, 7000])
    low = rng.choice([60, 120, 200, 300])
    sos = butter(4, [low, high], "bandpass", fs=RATE_HZ, output="sos")
    return sosfilt(sos, x).astype(np.float32)


def _coloured(n: int, slope: float, rng: np.random.Generator) -> Audio:
    spectrum = rfft(rng.standard_normal(n, np.float32))
    hz = np.maximum(np.fft.rfftfreq(n, 1 / RATE_HZ), 30).astype(np.float32)
    return np.asarray(irfft(spectrum * hz ** np.float32(slope), n), np.float32)


def _music(n: int, rng: np.random.Generator) -> Audio:
    """Make music: chords of decaying harmonic tones with a beat."""
    out = np.zeros(n, np.float32)
    beat = int(rng.uniform(0.25, 0.7) * RATE_HZ)
    for start in range(0, n, beat):
        length = min(n - start, 2 * beat)
        t = np.arange(length, dtype=np.float32) / RATE_HZ
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        for interval in (0, 4, 7):
            f = root * 2 ** (interval / 12)
            for h in range(1, 5):
                out[start : start + length] += np.sin(np.float32(2 * np.pi * f * h) * t) / np.float32(h)
        out[start : start + length] *= np.exp(-2 * t)
        if rng.random() < 0.7:
            out[start : start + length] += (rng.normal(0, 2, length) * np.exp(-t * 40)).astype(np.float32)
    return out


def noise(n: int, rng: np.random.Generator, babble: Audio | None = None) -> Audio:
    """Return n samples of background noise of unit power: hiss, rumble, hum, music or other people."""
    kind = rng.choice(["hiss", "rumble", "hum", "music", "babble"], p=[0.35, 0.25, 0.1, 0.15, 0.15])
    if kind == "music":
        x = _music(n, rng)
    elif kind == "babble" and babble is not None:
        x = np.resize(babble, n)
        x = x + np.roll(x[::-1], n // 3) + np.roll(x, n // 5)
    elif kind == "hum":
        t = np.arange(n) / RATE_HZ
        x = sum(np.sin(2 * np.pi * 50 * h * t + rng.uniform(0, 6)) / h for h in range(1, 8)) + 0.2 * rng.normal(0, 1, n)
    else:
        x = _coloured(n, rng.uniform(-0.3, 0.1) if kind == "hiss" else rng.uniform(-1.2, -0.5), rng)
    x = np.asarray(x, np.float32)
    if rng.random() < 0.3:
        swell = rng.random(n // 8000 + 2)
        x = x * (0.3 + np.interp(np.arange(n), np.arange(len(swell)) * 8000, swell)).astype(np.float32)
    return x / max(float(np.sqrt((x**2).mean())), 1e-9)


def degrade(x: Audio, rng: np.random.Generator, babble: Audio | None = None) -> Audio:
    """Turn clean speech into one random recording of it."""
    x = equalise(x, rng) if rng.random() < 0.9 else x
    x = reverb(x, rng) if rng.random() < 0.5 else x
    power = float(np.sqrt((x**2).mean())) + 1e-9
    if rng.random() < 0.85:
        x = x + noise(len(x), rng, babble) * power * 10 ** (-rng.uniform(4, 45) / 20)
    x = band_limit(x, rng) if rng.random() < 0.3 else x
    if rng.random() < 0.3:
        t = np.arange(len(x))
        gains = rng.uniform(-6, 6, len(x) // 24000 + 2)
        x = x * 10 ** (np.interp(t, np.arange(len(gains)) * 24000, gains) / 20)
    x = x / max(float(np.abs(x).max()), 1e-9)
    if rng.random() < 0.2:
        drive = rng.uniform(1, 5)
        x = np.tanh(x * drive) / np.tanh(drive)
    x = x * 10 ** (-rng.exponential(12) / 20)
    if rng.random() < 0.7:
        x = np.round(x * 32767) / 32767
    return x.astype(np.float32)

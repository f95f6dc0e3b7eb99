"""Frames with numbers that survive any encoder, a recording, and the numbers that a video shows."""

from pathlib import Path

import av
import numpy as np
import soundfile

WIDTH, HEIGHT = 96, 64
BITS = 12


def numbered(index: int) -> np.ndarray:
    """A frame that bears its number as twelve black or white blocks, which no encoder loses."""
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for bit in range(BITS):
        frame[16:48, bit * 8 : bit * 8 + 8] = 235 if index >> bit & 1 else 20
    return frame


def batch(start: int, end: int) -> np.ndarray:
    return np.stack([numbered(index) for index in range(start, end)])


def number_of(frame: np.ndarray) -> int:
    return sum(1 << bit for bit in range(BITS) if frame[20:44, bit * 8 + 2 : bit * 8 + 6].mean() > 128)


def shown_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as opened:
        return [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]


def recording(path: Path, seconds: float, rate: int = 48_000, channels: int = 1) -> Path:
    """Noise that fades in and out, as a wav of `seconds`, rounded to a sample."""
    n = round(seconds * rate)
    rng = np.random.default_rng(n)
    smooth = np.convolve(rng.standard_normal(n + 31), np.ones(32) / 32, "valid")
    sound = smooth * np.sin(np.linspace(0, 9, n)) * 0.5
    soundfile.write(path, np.repeat(sound[:, None], channels, axis=1), rate, subtype="PCM_24", format="WAV")
    return path

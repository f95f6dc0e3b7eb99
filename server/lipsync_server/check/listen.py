"""Figures of the sound of a video: loud level, clipping and silence, read in blocks of ten seconds.

Reads the 16 kHz mono file of a decoder process. Knows no picture.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

_BLOCK: Final = 10 * SPEECH_RATE_HZ
_STEP: Final = SPEECH_RATE_HZ // 10
_FULL_SCALE: Final = 0.985
SILENT_DB: Final = -60.0
"""A tenth of a second below this level is silent."""


@dataclass(frozen=True)
class Heard:
    """The figures of a recording.

    clipped: share of the samples at full scale. silences: (from_s, to_s) of every pause over 3 s. loud_db: level of the
    loudest twentieth, dB of full scale. duration_s: length of the sound."""

    duration_s: float
    loud_db: float
    clipped: float
    silences: tuple[tuple[float, float], ...]

    @property
    def is_silent(self) -> bool:
        """Whether even the loudest twentieth is silent."""
        return self.loud_db < SILENT_DB


def listen(speech: Speech, *, longest_pause_s: float = 3.0) -> Heard:
    """Figures of a recording. speech: float32 (n,) mono at 16 kHz, may be a memory map."""
    levels: list[float] = []
    n_clipped = 0
    for start in range(0, len(speech), _BLOCK):
        block = np.asarray(speech[start : start + _BLOCK], np.float32)
        n_clipped += int((np.abs(block) >= _FULL_SCALE).sum())
        whole = block[: len(block) // _STEP * _STEP].reshape(-1, _STEP)
        levels += (10 * np.log10((whole**2).mean(axis=1) + 1e-12)).tolist()
    db = np.asarray(levels if levels else [-120.0])
    return Heard(
        duration_s=len(speech) / SPEECH_RATE_HZ,
        loud_db=float(np.percentile(db, 95)),
        clipped=n_clipped / max(len(speech), 1),
        silences=tuple(
            (first / 10, last / 10) for first, last in runs(db < SILENT_DB) if (last - first) / 10 > longest_pause_s
        ),
    )


def runs(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """(start, stop) of every run of True."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))

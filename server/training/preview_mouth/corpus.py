"""A corpus: synthetic speech with known phones, stored as one .npz file.

Knows the synthesizers. Does not know features or targets, so both may change without a new corpus.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from espeak import RATE_HZ, Utterance
from numpy.typing import NDArray
from phones import INDEX, class_track


class Corpus:
    """Utterances: audio(i) float32 at 16 kHz, classes(i) the class index every 10 ms, tag(i) the name of the voice."""

    def __init__(self, path: Path) -> None:
        z = np.load(path, allow_pickle=False)
        self._audio, self._audio_at = z["audio"], z["audio_at"]
        self._classes, self._classes_at, self.tags = z["classes"], z["classes_at"], z["tags"]

    def __len__(self) -> int:
        return len(self._audio_at) - 1

    def audio(self, i: int) -> NDArray[np.float32]:
        return self._audio[self._audio_at[i] : self._audio_at[i + 1]].astype(np.float32) / 32768

    def classes(self, i: int) -> NDArray[np.int64]:
        return self._classes[self._classes_at[i] : self._classes_at[i + 1]].astype(np.int64)


def write(path: Path, utterances: Iterable[tuple[str, Utterance]]) -> int:
    """Store (tag, utterance) pairs; returns how many."""
    audio, classes, tags = [], [], []
    for tag, u in utterances:
        n = len(u.audio) // (RATE_HZ // 100) + 1
        audio.append((np.clip(u.audio, -1, 1) * 32767).astype(np.int16))
        classes.append(class_track(u.segments, n).astype(np.uint8))
        tags.append(tag)
    assert len(INDEX) < 256
    np.savez(
        path,
        audio=np.concatenate(audio),
        audio_at=np.cumsum([0, *map(len, audio)]),
        classes=np.concatenate(classes),
        classes_at=np.cumsum([0, *map(len, classes)]),
        tags=np.array(tags),
    )
    return len(tags)

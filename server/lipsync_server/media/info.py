"""Facts about media files as plain data: the results of probing and of decoding.

Imports no decoder, so that the server process can use these types without loading one.
"""

from dataclasses import dataclass
from pathlib import Path

Warnings = tuple[str, ...]
"""Sentences for the person who gets the video; empty when all of the recording is used as it is."""


@dataclass(frozen=True)
class AudioInfo:
    """A recording that can be used. `duration_s` counts decoded samples, as a player would play them."""

    duration_s: float
    rate_hz: int
    channels: int
    codec: str
    container: str
    warnings: Warnings = ()


@dataclass(frozen=True)
class PictureInfo:
    """A picture as it will be shown, after its EXIF orientation, or a video that stands in for it.

    format: "JPEG" and so on, or a video codec's name. duration_s: None for a still picture.
    """

    width: int
    height: int
    format: str
    duration_s: float | None = None

    @property
    def is_video(self) -> bool:
        """Whether a video stands in for the picture."""
        return self.duration_s is not None


@dataclass(frozen=True)
class PixelFile:
    """A decoded picture on disk: uint8 RGB (height, width, 3) without a header. `info` describes the original file."""

    path: Path
    info: PictureInfo


@dataclass(frozen=True)
class SpeechFile:
    """Speech for a model on disk: `n_samples` of float32 mono at 16 kHz, without a header.

    duration_s: the exact length of the original recording in seconds.
    """

    path: Path
    n_samples: int
    duration_s: float
    warnings: Warnings = ()


@dataclass(frozen=True)
class HeardWord:
    """A word of a script as it is shown, and the seconds of the recording in which it is heard."""

    text: str
    blank_before: bool
    start_s: float
    end_s: float


@dataclass(frozen=True)
class HeardScript:
    """A script timed by a recording.

    fits: whether script and recording are likely to be of the same words. guessed: the words whose sound no voice
    knows, once each; their times are guessed from the words beside them. guesses_vowels: whether the voice that timed
    the words had to guess their short vowels.
    """

    words: tuple[HeardWord, ...]
    language: str
    fits: bool
    guessed: tuple[str, ...] = ()
    guesses_vowels: bool = False


@dataclass(frozen=True)
class TextInfo:
    """A text that can be spoken. duration_s: the approximate length of its speech."""

    language: str
    duration_s: float


@dataclass(frozen=True)
class SpokenPiece:
    """A piece of a text that was spoken: samples appended to a file, at `rate_hz`."""

    rate_hz: int
    n_samples: int


@dataclass(frozen=True)
class Mark:
    """The mark that marking.py writes into a video. engine: the name of the engine that made the frames.

    signing_file: the PEM file of certificate.py; None leaves the video unsigned, with the XMP mark alone.
    """

    engine: str
    signing_file: Path | None = None


@dataclass(frozen=True)
class VideoInfo:
    """A finished video. `duration_s` is the length of the video track: n_frames / fps."""

    width: int
    height: int
    fps: float
    n_frames: int
    duration_s: float
    size_bytes: int
    sha256: str

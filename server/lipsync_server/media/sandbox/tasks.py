"""The closed list of tasks that a decoder process does, each with its limits and the kind of its result.

Knows no decoder: the server process builds these and reads the results. child.py does the work.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import TypeAdapter

from lipsync_server.errors import InvalidAudio, InvalidImage, InvalidInput, LipsyncError
from lipsync_server.media.framing.wishes import Still
from lipsync_server.media.info import (
    AudioInfo,
    HeardScript,
    Mark,
    PictureInfo,
    PixelFile,
    SpeechFile,
    SpokenPiece,
    TextInfo,
    VideoInfo,
)
from lipsync_server.media.sandbox.limits import MIB, Limits

Result = TypeVar("Result")

_PICTURE_INFO, _AUDIO_INFO = TypeAdapter(PictureInfo), TypeAdapter(AudioInfo)
_PIXEL_FILE, _SPEECH_FILE, _VIDEO_INFO = TypeAdapter(PixelFile), TypeAdapter(SpeechFile), TypeAdapter(VideoInfo)
_SECONDS, _COUNT = TypeAdapter(float), TypeAdapter(int)
_SENTENCES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
_HEARD_SCRIPT, _TEXT_INFO, _SPOKEN = TypeAdapter(HeardScript), TypeAdapter(TextInfo), TypeAdapter(SpokenPiece)

_GIB = 1024 * MIB
# Bytes of memory per pixel of the largest picture allowed. Pillow stores 4, AVIF's decoder 6 more, a turned copy 4.
_BYTES_PER_PIXEL = 16
_BYTES_PER_PIXEL_TO_CONVERT = 24
_PICTURE_BASE_BYTES = 192 * MIB
"""Enough for the frames that a decoder of 4K video holds, whatever the limit on pixels."""
_RECORDING_BYTES = 256 * MIB
"""An index of half an hour of packets takes 10 MiB, a video track's that is skipped 20."""
_PICTURE_CPU_S = 15.0
_RECORDING_CPU_S = 10.0
_UNBOUNDED_FILE = -1
# Seconds of recording that a slow core decodes in one second; common codecs reach 100 to 400.
_RECORDING_SPEED = 20.0


@dataclass(frozen=True)
class Task(Generic[Result]):
    """Work on one file. `subject` names the file in sentences, `error` is the kind of its refusal."""

    subject: ClassVar[str]
    error: ClassVar[type[LipsyncError]]
    advice: ClassVar[str]

    def limits(self) -> Limits:
        """The limits of memory and time for this task."""
        raise NotImplementedError

    def parse(self, answer: object) -> Result:
        """The result from the child's JSON. Raises pydantic.ValidationError for anything else."""
        raise NotImplementedError


class _OnPicture(Task[Result]):
    subject, error = "picture", InvalidImage
    advice = "Export it again as JPEG or PNG."


class _OnRecording(Task[Result]):
    subject, error = "recording", InvalidAudio
    advice = "Export it again as wav or mp3."


@dataclass(frozen=True)
class ProbePicture(_OnPicture[PictureInfo]):
    """Check that a file is a picture, or a video that can stand in for one, by decoding it once."""

    path: Path
    max_pixels: int

    def limits(self) -> Limits:
        return Limits(_PICTURE_BASE_BYTES + _BYTES_PER_PIXEL * self.max_pixels, _PICTURE_CPU_S, 60.0)

    def parse(self, answer: object) -> PictureInfo:
        return _PICTURE_INFO.validate_python(answer)


@dataclass(frozen=True)
class ProbeRecording(_OnRecording[AudioInfo]):
    """Decode a recording once for its exact length and to see that all of it can be used."""

    path: Path
    min_s: float
    max_s: float

    def limits(self) -> Limits:
        cpu_s = _RECORDING_CPU_S + self.max_s / _RECORDING_SPEED
        return Limits(_RECORDING_BYTES, cpu_s, 30.0 + 3 * cpu_s)

    def parse(self, answer: object) -> AudioInfo:
        return _AUDIO_INFO.validate_python(answer)


@dataclass(frozen=True)
class DecodePicture(_OnPicture[PixelFile]):
    """Decode a picture, or a video's first frame, into the file `target`."""

    path: Path
    max_pixels: int
    target: Path

    def limits(self) -> Limits:
        memory_bytes = _PICTURE_BASE_BYTES + _BYTES_PER_PIXEL_TO_CONVERT * self.max_pixels
        return Limits(memory_bytes, 2 * _PICTURE_CPU_S, 180.0, 3 * self.max_pixels)

    def parse(self, answer: object) -> PixelFile:
        return _PIXEL_FILE.validate_python(answer)


@dataclass(frozen=True)
class DecodeSpeech(_OnRecording[SpeechFile]):
    """Decode a recording into a file of 16 kHz mono in the folder `scratch`."""

    path: Path
    scratch: Path
    max_s: float

    def limits(self) -> Limits:
        return _for_recordings(2 * self.max_s)

    def parse(self, answer: object) -> SpeechFile:
        return _SPEECH_FILE.validate_python(answer)


@dataclass(frozen=True)
class MixVoices(_OnRecording[float]):
    """Write two recordings into one WAV file; the result is its length in seconds."""

    first: Path
    second: Path
    output: Path
    one_after_other: bool
    max_s: float

    def limits(self) -> Limits:
        return _for_recordings(4 * self.max_s)

    def parse(self, answer: object) -> float:
        return _SECONDS.validate_python(answer)


@dataclass(frozen=True)
class WriteSound(_OnRecording[tuple[str, ...]]):
    """Write the sound that the video carries, and sentences about it; see sound/delivered.py. max_s: its length."""

    path: Path
    output: Path
    lead_silence_s: float
    loudness_lufs: float | None
    max_s: float

    def limits(self) -> Limits:
        return _for_recordings(4 * self.max_s)

    def parse(self, answer: object) -> tuple[str, ...]:
        return _SENTENCES.validate_python(answer)


@dataclass(frozen=True)
class WriteStill(Task[int]):
    """Write a poster or a moving preview of a finished video; the result is its size in bytes. See stills.py."""

    path: Path
    output: Path
    kind: Still
    duration_s: float
    subject, error, advice = "video", LipsyncError, "Fetch the video itself."

    def limits(self) -> Limits:
        return Limits(_GIB, 120.0, 300.0, _UNBOUNDED_FILE)

    def parse(self, answer: object) -> int:
        return _COUNT.validate_python(answer)


@dataclass(frozen=True)
class TimeScript(Task[HeardScript]):
    """Time the words of a script by a decoded recording; see captions/align.py."""

    speech: SpeechFile
    script: str
    language: str | None
    subject, error, advice = "script", InvalidInput, "Ask for the video without captions."

    def limits(self) -> Limits:
        cpu_s = 120.0 + self.speech.duration_s / 4
        return Limits(_GIB, cpu_s, 120.0 + 3 * cpu_s)

    def parse(self, answer: object) -> HeardScript:
        return _HEARD_SCRIPT.validate_python(answer)


@dataclass(frozen=True)
class RecogniseWords(Task[HeardScript]):
    """Recognise the words of a decoded recording and time them; see captions/whisper.py. home: the model's files."""

    speech: SpeechFile
    language: str | None
    home: Path
    subject, error, advice = "recording", InvalidInput, "Send the spoken words as script."

    def limits(self) -> Limits:
        cpu_s = 600.0 + 20 * self.speech.duration_s
        return Limits(4 * _GIB, cpu_s, 600.0 + cpu_s)

    def parse(self, answer: object) -> HeardScript:
        return _HEARD_SCRIPT.validate_python(answer)


@dataclass(frozen=True)
class ProbeText(Task[TextInfo]):
    """Find the language of a text, and about how long it takes to speak; see voice/speak.py."""

    text: str
    language: str | None
    subject, error, advice = "text", InvalidInput, "Send a recording of the words."

    def limits(self) -> Limits:
        return Limits(_GIB, 60.0, 120.0)

    def parse(self, answer: object) -> TextInfo:
        return _TEXT_INFO.validate_python(answer)


@dataclass(frozen=True)
class SpeakPiece(Task[SpokenPiece]):
    """Append one piece of a text as samples to `target`; see voice/speak.py. voice: of Kokoro in `home`, if given."""

    piece: str
    language: str
    voice: str
    home: Path | None
    target: Path
    subject, error, advice = "text", InvalidInput, "Send a recording of the words."

    def limits(self) -> Limits:
        return Limits(3 * _GIB, 900.0, 1200.0, _UNBOUNDED_FILE)

    def parse(self, answer: object) -> SpokenPiece:
        return _SPOKEN.validate_python(answer)


@dataclass(frozen=True)
class JoinVideo(_OnRecording[VideoInfo]):
    """Join the encoded segments in `folder` with the caller's sound; see mux.py. script: shown as a text track."""

    folder: Path
    audio: Path
    output: Path
    fps: int
    duration_s: float
    script: HeardScript | None = None

    def limits(self) -> Limits:
        return _for_recordings(4 * self.duration_s + 600)

    def parse(self, answer: object) -> VideoInfo:
        return _VIDEO_INFO.validate_python(answer)


@dataclass(frozen=True)
class AppendFragments(_OnRecording[int]):
    """Append the segments in `folder` to the fragmented MP4 `stream`; the result is its frames. See fragments.py."""

    folder: Path
    audio: Path
    sound: Path
    stream: Path
    fps: int
    duration_s: float

    def limits(self) -> Limits:
        return _for_recordings(4 * self.duration_s + 600)

    def parse(self, answer: object) -> int:
        return _COUNT.validate_python(answer)


@dataclass(frozen=True)
class MarkVideo(Task[VideoInfo]):
    """Mark a finished video as generated; see marking.py. The result has the video's new size and checksum.

    The signing library holds a video of up to half a gigabyte in memory, hence a process of its own for it.
    """

    path: Path
    mark: Mark
    subject, error, advice = "video", LipsyncError, "Look at the signing file."

    def limits(self) -> Limits:
        return Limits(2 * _GIB, 600.0, 600.0, _UNBOUNDED_FILE)

    def parse(self, answer: object) -> VideoInfo:
        return _VIDEO_INFO.validate_python(answer)


@dataclass(frozen=True)
class ReadVideoFrames(_OnPicture[int]):
    """Decode the frames of a video at `indices` / `fps` seconds; DecoderProcess.frames() yields them.

    max_side: larger frames are scaled down to this length of the longer side.
    """

    path: Path
    indices: tuple[int, ...]
    fps: float
    max_pixels: int
    max_side: int | None = None

    def limits(self) -> Limits:
        # The render that asked has a time limit of its own, and closes the process when it stops.
        return Limits(_GIB, 6 * 3600.0, 60.0)

    def parse(self, answer: object) -> int:
        return _COUNT.validate_python(answer)


def _for_recordings(seconds: float) -> Limits:
    """Limits for writing files from `seconds` of recordings; a slow disk may take its time."""
    cpu_s = 2 * _RECORDING_CPU_S + seconds / _RECORDING_SPEED
    return Limits(2 * _RECORDING_BYTES, cpu_s, 600.0 + 3 * cpu_s, _UNBOUNDED_FILE)

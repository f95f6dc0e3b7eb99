"""Reads any recording of the closed list as a stream of float32 blocks, at its own rate and channels.

libsndfile reads most containers, FFmpeg the others. Files that were appended to each other are read one after the other
(parts.py). Does not know limits on length or resampling for models: speech.py has those, mp4/soundtrack.py encodes.
Holds one block at a time, so memory does not grow with the recording.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import av
import numpy as np
import soundfile

from lipsync_server.errors import InvalidAudio, UnsupportedMedia
from lipsync_server.media.formats.container import AUDIO_KINDS, Container, is_picture, sniff
from lipsync_server.media.formats.ffmpeg import BLOCK_SAMPLES, Converter, FfmpegReader
from lipsync_server.media.formats.left_over import left_over
from lipsync_server.media.formats.parts import Part, find_parts, open_part
from lipsync_server.media.formats.recognise import N8N_ADVICE, UNKNOWN, describe, is_text
from lipsync_server.media.formats.sound_format import Block, SoundFormat
from lipsync_server.media.formats.structure import check_structure
from lipsync_server.media.formats.untouched import before_decoding
from lipsync_server.media.info import Warnings
from lipsync_server.media.sound.downmix import to_mono

LONGEST_S = 1800.0
_PCM_ADVICE = (
    "If it is raw PCM, which has no header to tell rate and channels, ask the text-to-speech service for wav or mp3."
)
_SWAPPED_ADVICE = "Perhaps picture and recording are swapped."
# mp3 is missing here although libsndfile reads it: libsndfile drops the end of an mp3 without a Xing header.
_SOUNDFILE_KINDS: frozenset[Container] = frozenset({"wav", "flac", "ogg", "aiff", "caf", "au"})
_SOUNDFILE_CODECS = {
    *("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS"),
}


class _Reader(Protocol):
    """The sound of one file: its format, its samples (readable once), and warnings about lost sound."""

    format: SoundFormat

    def blocks(self) -> Iterator[Block]: ...

    def warnings(self) -> Warnings: ...


def identify(path: Path) -> Container:
    """The container of a recording. Raises InvalidAudio for an empty file, UnsupportedMedia for another kind."""
    if path.stat().st_size == 0:
        raise InvalidAudio("The recording is an empty file. Send it again.")
    container = sniff(path)
    if container is None or (container == "mov" and is_picture(path)):
        found = describe(path)
        advice = f" {_PCM_ADVICE}" if found == UNKNOWN else ""
        if is_text(path):
            advice = f" {N8N_ADVICE}"
        elif "picture" in found:
            advice = f" {_SWAPPED_ADVICE}"
        raise UnsupportedMedia(f"The recording cannot be read: the file is {found}.{advice} Send {AUDIO_KINDS}.")
    return container


class Sound:
    """An open recording: its format, and its samples, which can be read once. Use it in a `with` statement."""

    def __init__(self, path: Path, *, longest_s: float = LONGEST_S) -> None:
        """Raises UnsupportedMedia for a file that is no recording, InvalidAudio for damage or for no sound.

        longest_s: a wav header that gives a longer sound counts as a placeholder; see wav.py.
        """
        self._path, self._container, self._longest_s = path, identify(path), longest_s
        self._parts = find_parts(path, self._container)
        self._header_warnings: list[str] = []
        for part in self._parts:
            with open_part(path, part) as file, before_decoding():
                found = check_structure(file, part.end - part.start, self._container, longest_s=longest_s)
                self._header_warnings += [*found, *left_over(file, part.end - part.start, self._container)]
        self._decoding_warnings: list[str] = []
        self._closing = ExitStack()
        try:
            self._first = self._open(self._parts[0], self._closing)
        except BaseException:
            self.close()
            raise
        self.format = self._first.format
        """The format of the first file; all later files are converted to it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def blocks(self) -> Iterator[Block]:
        """The samples as float32 (n, channels), full scale -1 to 1, in blocks of varying length; call it once."""
        yield from self._first.blocks()
        self._decoding_warnings += self._first.warnings()
        for part in self._parts[1:]:
            with ExitStack() as closing:
                reader = self._open(part, closing)
                yield from _converted(reader, self.format)
                self._decoding_warnings += reader.warnings()

    def warnings(self) -> Warnings:
        """Sentences about sound that was lost or left out; complete once the blocks are read."""
        joined = (
            []
            if len(self._parts) == 1
            else [f"The recording is {len(self._parts)} files joined behind each other; all of them were used."]
        )
        return tuple(dict.fromkeys([*joined, *self._header_warnings, *self._decoding_warnings]))

    def _open(self, part: Part, closing: ExitStack) -> _Reader:
        is_whole = part == Part(0, self._path.stat().st_size)
        # Given a path, libsndfile reads the file itself, which is faster than through a Python file object.
        source = self._path if is_whole else closing.enter_context(open_part(self._path, part))
        reader: _Reader | None = None
        if self._container in _SOUNDFILE_KINDS:
            reader = _open_soundfile(source, self._container, closing, self._longest_s)
        if reader is None:
            file = closing.enter_context(open_part(self._path, part))
            reader = FfmpegReader(file, self._container, closing)
        reader.format.check()
        return reader


def _converted(reader: _Reader, target: SoundFormat) -> Iterator[Block]:
    """The reader's blocks at the rate and channels of `target`."""
    source = reader.format
    if (source.rate_hz, source.layout) == (target.rate_hz, target.layout):
        yield from reader.blocks()
        return
    converter: Converter | None = None
    for block in reader.blocks():
        layout = source.layout
        # FFmpeg would make a mono channel 3 dB quieter in stereo, and would let opposite phases cancel.
        if source.channels == 1:
            block, layout = np.repeat(block, target.channels, axis=1), target.layout
        elif target.channels == 1:
            block, layout = to_mono(block)[:, None], target.layout
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = source.rate_hz
        converter = converter or Converter(frame, target)
        yield from converter.convert(frame)
    if converter is not None:
        yield from converter.convert(None)


class _SoundfileReader:
    """One recording, opened by libsndfile."""

    def __init__(self, file: soundfile.SoundFile, container: Container) -> None:
        layout = "mono" if file.channels == 1 else "stereo"
        self.format = SoundFormat(container, str(file.subtype).lower(), file.samplerate, file.channels, layout)
        self._file = file
        self._n_read = 0

    def blocks(self) -> Iterator[Block]:
        file, n_declared = self._file, self._file.frames
        while True:
            try:
                block: Block = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as problem:
                raise InvalidAudio(
                    f"The recording is damaged after {self._n_read / file.samplerate:.2f} s ({problem}). Send it again."
                ) from None
            if not len(block):
                break
            self._n_read += len(block)
            yield block
        if self.format.container == "flac" and self._n_read < n_declared:
            raise InvalidAudio(
                f"The recording is cut off: {self._n_read / file.samplerate:.2f} of"
                f" {n_declared / file.samplerate:.2f} s are there. Send the whole file again."
            )

    def warnings(self) -> Warnings:
        """A warning when the file ended before the length that it gives."""
        missing_s = (self._file.frames - self._n_read) / self._file.samplerate
        if missing_s < 0.05:
            return ()
        return (f"The recording is damaged: {missing_s:.1f} s of it could not be decoded and were left out.",)


def _open_soundfile(
    source: Path | BinaryIO, container: Container, closing: ExitStack, longest_s: float
) -> _SoundfileReader | None:
    """A reader of libsndfile, or None for a recording that FFmpeg reads better."""
    try:
        file = closing.enter_context(soundfile.SoundFile(source))
    except soundfile.LibsndfileError:
        return None  # a codec that libsndfile lacks
    if file.subtype not in _SOUNDFILE_CODECS or file.channels > 2:
        return None  # mp3 or ADPCM in a wav loses its length; libsndfile does not report which speaker is which
    if not 0 < file.frames < 1 << 48 or (container == "flac" and file.frames > longest_s * file.samplerate):
        return None  # a stream that was never finished: its length is found by decoding
    return _SoundfileReader(file, container)

"""Recordings: their exact length, and their conversion to the 16 kHz mono sound that models read.

Knows the limits on a recording and soxr, the resampler. Sound made here is for models only: the video gets the caller's
own sound, from mux.py.
"""

import hashlib
from pathlib import Path

import numpy as np
import soxr

from lipsync_server import durations
from lipsync_server.errors import InvalidAudio
from lipsync_server.media.formats.sound_format import Block
from lipsync_server.media.info import AudioInfo, SpeechFile
from lipsync_server.media.sound.downmix import to_mono
from lipsync_server.media.sound.recording import Sound
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech


def probe_audio(path: Path, *, min_s: float, max_s: float) -> AudioInfo:
    """Decode `path` once to learn its exact length and that all of it can be used; stops at `max_s`.

    Raises UnsupportedMedia for a file that is no recording, InvalidAudio for a recording that is damaged, cut off,
    without sound, shorter than `min_s` or longer than `max_s`. Silence is accepted.
    """
    with Sound(path, longest_s=max_s) as sound:
        rate = sound.format.rate_hz
        n_samples, n_max = 0, round(max_s * rate)
        for block in sound.blocks():
            _check_numbers(block)
            n_samples += len(block)
            if n_samples > n_max:
                raise _too_long(max_s)
        if n_samples < round(min_s * rate):
            raise InvalidAudio(
                f"The recording is {n_samples / rate:.2f} s long; at least {min_s:g} s are needed. Send a longer one."
            )
        stored = sound.format
        return AudioInfo(n_samples / rate, rate, stored.channels, stored.codec, stored.container, sound.warnings())


def write_speech(path: Path, scratch: Path, *, max_s: float) -> SpeechFile:
    """Decode a recording for a model: float32 mono at 16 kHz in [-1, 1], as a file in the folder `scratch`.

    Streams, so memory does not grow with the length. Raises as probe_audio does.
    """
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    target = scratch / f"speech-{name}.f32"
    partial = target.with_suffix(".part")
    with Sound(path, longest_s=max_s) as sound, partial.open("wb") as out:
        rate = sound.format.rate_hz
        resampler = soxr.ResampleStream(rate, SPEECH_RATE_HZ, 1, dtype="float32")
        n_samples = n_written = 0

        def write(mono: Speech, *, last: bool = False) -> None:
            nonlocal n_written
            heard = resampler.resample_chunk(mono, last=last) if rate != SPEECH_RATE_HZ else mono
            n_written += len(heard)
            out.write(np.clip(heard, -1.0, 1.0).astype("<f4").tobytes())

        for block in sound.blocks():
            _check_numbers(block)
            n_samples += len(block)
            if n_samples > max_s * rate:
                raise _too_long(max_s)
            write(to_mono(block))
        write(np.zeros(0, np.float32), last=True)
        if not n_samples:
            raise InvalidAudio("The recording holds no sound at all. Send it again.")
        # The resampler may round the length differently; the speech must cover the recording exactly.
        n_wanted = -(-n_samples * SPEECH_RATE_HZ // rate)
        out.truncate(n_wanted * 4)
        warnings = sound.warnings()
    partial.replace(target)
    return SpeechFile(target, n_wanted, n_samples / rate, warnings)


def map_speech(file: SpeechFile) -> Speech:
    """The speech that write_speech stored, as a read-only memory map. Decodes nothing."""
    return np.memmap(file.path, dtype="<f4", mode="r", shape=(file.n_samples,))


def _check_numbers(block: Block) -> None:
    if not np.isfinite(block).all():
        raise InvalidAudio("The recording contains values that are not numbers (NaN or infinity). Export it again.")


def _too_long(max_s: float) -> InvalidAudio:
    return InvalidAudio(f"The recording is longer than {durations.limit(max_s)}, the most this server takes. Cut it.")

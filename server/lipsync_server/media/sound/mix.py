"""Mixes two people's recordings into one sound track: at the same time, or the second after the first.

Recordings are read as streams of blocks, so memory does not grow with their length. Does not know who speaks.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lipsync_server.media.formats.sound_format import Block
from lipsync_server.media.sound.downmix import to_mono
from lipsync_server.media.sound.recording import Sound


def mix(first: Path, second: Path, output: Path, *, one_after_other: bool) -> float:
    """Write both recordings to the WAV file `output` at the higher of their rates; returns its length in seconds.

    The file is mono when both recordings are, else stereo. A sum that is too loud is made quieter by one factor for the
    whole file. Raises the errors of Sound for a recording that cannot be used.
    """
    with Sound(first) as one, Sound(second) as two:
        rate_hz = max(one.format.rate_hz, two.format.rate_hz)
        channels = 1 if one.format.channels == two.format.channels == 1 else 2
    partial = output.with_suffix(".part")
    peak = 0.0
    with soundfile.SoundFile(partial, "w", rate_hz, channels, subtype="FLOAT", format="RF64") as file:
        for block in _mixed(first, second, rate_hz, channels, one_after_other):
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            file.write(block)
        n_samples = file.tell()
    if peak > 1.0:
        _turn_down(partial, peak)
    partial.replace(output)
    return float(n_samples / rate_hz)


def _mixed(first: Path, second: Path, rate_hz: int, channels: int, one_after_other: bool) -> Iterator[Block]:
    """The blocks of both recordings, added up or one after the other; after the shorter one ends, the other alone."""
    if one_after_other:
        yield from _voice(first, rate_hz, channels)
        yield from _voice(second, rate_hz, channels)
        return
    voices = [_voice(first, rate_hz, channels), _voice(second, rate_hz, channels)]
    waiting = [np.zeros((0, channels), np.float32) for _ in voices]
    ended = [False for _ in voices]
    while not all(ended):
        for index, voice in enumerate(voices):
            if not ended[index] and not len(waiting[index]):
                block = next(voice, None)
                ended[index] = block is None
                waiting[index] = waiting[index] if block is None else block
        lengths = [len(block) for block, end in zip(waiting, ended, strict=True) if not end]
        n = min(lengths, default=0)
        if n:
            yield np.sum([block[:n] for block in waiting if len(block)], axis=0, dtype=np.float32)
            waiting = [block[n:] for block in waiting]


def _voice(path: Path, rate_hz: int, channels: int) -> Iterator[Block]:
    """The blocks of one recording at `rate_hz` with `channels`."""
    with Sound(path) as sound:
        source_hz = sound.format.rate_hz
        resampler = soxr.ResampleStream(source_hz, rate_hz, channels, dtype="float32") if source_hz != rate_hz else None
        n_read = n_made = 0
        for block in sound.blocks():
            n_read += len(block)
            shaped = _with_channels(block, channels)
            if resampler is not None:
                shaped = resampler.resample_chunk(shaped).reshape(-1, channels)
            n_made += len(shaped)
            yield shaped
        # The resampler may round the length differently; the result must cover the recording exactly.
        n_left = -(-n_read * rate_hz // source_hz) - n_made
        if resampler is not None and n_left > 0:
            tail = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels)[
                :n_left
            ]
            yield np.concatenate([tail, np.zeros((n_left - len(tail), channels), np.float32)])


def _with_channels(block: Block, channels: int) -> Block:
    if block.shape[1] == channels:
        return block
    return np.repeat(to_mono(block)[:, None], channels, axis=1)


def _turn_down(path: Path, peak: float) -> None:
    """Divide every sample of the WAV file by `peak`, in place."""
    with soundfile.SoundFile(path, "r+") as file:
        position = 0
        while len(block := file.read(65_536, dtype="float32", always_2d=True)):
            file.seek(position)
            file.write(block / peak)
            position += len(block)
            file.seek(position)

"""Make the sound of a video from the recording: silence before it, another loudness.

Loudness is ITU-R BS.1770's integrated loudness in LUFS, measured by FFmpeg's filter ebur128. The recording is then
multiplied by one factor, and the filter alimiter limits the few peaks above -1 dB of full scale, so that no sample
clips. Reads and writes blocks, so memory does not grow with the length. Knows no job.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import soundfile
from av.filter import Graph

from lipsync_server.media.formats.sound_format import Block
from lipsync_server.media.sound.recording import Sound

_CEILING = 10 ** (-1 / 20)
"""-1 dB of full scale: room for peaks between samples that AAC and players make."""
_SILENT_LUFS = -69.0
"""ebur128 leaves out blocks below -70 LUFS; a recording of nothing else has no loudness."""


def write_delivered(
    audio: Path, output: Path, *, lead_silence_s: float = 0.0, loudness_lufs: float | None = None
) -> tuple[str, ...]:
    """Write the WAV file `output`: silence, then `audio` at the wanted loudness, at its own rate and channels.

    loudness_lufs None leaves the level as it is. Returns sentences for the caller. Raises the errors of Sound.
    """
    gain = 1.0
    warnings: tuple[str, ...] = ()
    if loudness_lufs is not None:
        measured = integrated_loudness(audio)
        if measured <= _SILENT_LUFS:
            warnings = ("The recording is silent, so its loudness was left as it is.",)
            loudness_lufs = None
        else:
            gain = 10 ** ((loudness_lufs - measured) / 20)
    partial = output.with_suffix(".part")
    with Sound(audio) as sound:
        rate_hz, channels = sound.format.rate_hz, sound.format.channels
        with soundfile.SoundFile(partial, "w", rate_hz, channels, subtype="FLOAT", format="RF64") as file:
            _write_silence(file, round(lead_silence_s * rate_hz), channels)
            blocks = sound.blocks() if loudness_lufs is None else _limited(sound, gain)
            for block in blocks:
                file.write(block)
    partial.replace(output)
    return warnings


def integrated_loudness(audio: Path) -> float:
    """BS.1770 loudness of a whole recording in LUFS; about -70 for silence. Raises the errors of Sound."""
    lufs = -math.inf
    with Sound(audio) as sound:
        for frame in _filtered(sound, [("ebur128", "metadata=1")]):
            lufs = float(frame.metadata.get("lavfi.r128.I", lufs))
    return lufs


def _limited(sound: Sound, gain: float) -> Iterator[Block]:
    """The blocks of `sound` times `gain`, with peaks above _CEILING limited."""
    # alimiter needs the next `attack` ms of sound. With latency=1 it removes that delay from its output.
    limiter = f"limit={_CEILING:.6f}:attack=5:release=80:level=disabled:latency=1"
    for frame in _filtered(sound, [("volume", f"{gain:.6f}:precision=float"), ("alimiter", limiter)], "flt"):
        yield frame.to_ndarray().reshape(-1, sound.format.channels).astype(np.float32)


def _filtered(
    sound: Sound, filters: list[tuple[str, str]], sample_format: str | None = None
) -> Iterator[av.AudioFrame]:
    """The frames of `sound` after FFmpeg's filters. sample_format: of the frames, by default the last filter's."""
    graph, rate_hz = Graph(), sound.format.rate_hz
    layout = sound.format.layout
    nodes = [graph.add_abuffer(sample_rate=rate_hz, format="flt", layout=layout, time_base=Fraction(1, rate_hz))]
    nodes += [graph.add(name, options) for name, options in filters]
    if sample_format is not None:
        nodes.append(graph.add("aformat", f"sample_fmts={sample_format}"))
    nodes.append(graph.add("abuffersink"))
    for one, following in pairwise(nodes):
        one.link_to(following)
    graph.configure()
    source, sink, n_sent = nodes[0], nodes[-1], 0
    for block in sound.blocks():
        if not len(block):
            continue
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), n_sent
        n_sent += len(block)
        source.push(frame)
        yield from _ready(sink)
    source.push(None)
    yield from _ready(sink)


def _ready(sink: "av.filter.context.FilterContext") -> Iterator[av.AudioFrame]:
    """The frames that the filters have finished so far."""
    while True:
        try:
            frame = sink.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, av.AudioFrame)
        yield frame


def _write_silence(file: soundfile.SoundFile, n_samples: int, channels: int) -> None:
    step = 65_536
    for start in range(0, n_samples, step):
        file.write(np.zeros((min(step, n_samples - start), channels), np.float32))

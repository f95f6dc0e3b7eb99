"""The caller's sound as the AAC packets of the video's sound track.

AAC is copied packet by packet; all other codecs are decoded and encoded at their own rate and channels. An AAC encoder
puts silent samples before the sound (its priming); they are placed before time 0, so that sound and picture start
together. Holds a few packets at a time.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from lipsync_server.media.formats.container import Container
from lipsync_server.media.formats.ffmpeg import open_av, packets_of
from lipsync_server.media.formats.sound_format import Block
from lipsync_server.media.sound.downmix import to_mono
from lipsync_server.media.sound.recording import Sound, identify

AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
MAX_AAC_CHANNELS = 8
_AAC_LAYOUTS = {
    *("mono", "stereo", "2.1", "3.0", "3.0(back)", "3.1", "4.0", "quad", "quad(side)", "4.1", "5.0", "5.0(side)"),
    *("5.1", "5.1(side)", "6.0", "6.0(front)", "hexagonal", "6.1", "6.1(back)", "6.1(front)", "7.0", "7.0(front)"),
    *("7.1", "7.1(wide)", "7.1(wide-side)", "octagonal"),
}
# A wav file often does not name its channels; players then assume these layouts.
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_FRAME_SAMPLES = 1024
_PLAIN_CONTAINERS: frozenset[Container] = frozenset({"mov", "adts", "matroska"})


def add_soundtrack(
    output: "av.container.OutputContainer", audio: Path, duration_s: float, closing: ExitStack
) -> Iterator["av.Packet[av.AudioStream]"]:
    """Add a sound track of exactly `duration_s` to `output`; returns its packets in order, timed from 0.

    `closing` keeps the recording open while the packets are read. Raises the errors of media/sound/recording.py.
    """
    container = identify(audio)
    if container in _PLAIN_CONTAINERS:
        copied = _copied(output, audio, container, duration_s, closing)
        if copied is not None:
            return copied
    return _encoded(output, closing.enter_context(Sound(audio)), duration_s)


# The recording is AAC already: packets are copied


@dataclass(frozen=True)
class _AacTrack:
    """The timing of an AAC track. n_priming: samples at the start that the encoder put before the sound."""

    rate_hz: int
    packet_samples: int
    n_priming: int
    n_packets: int


def _copied(
    output: "av.container.OutputContainer", audio: Path, container: Container, duration_s: float, closing: ExitStack
) -> Iterator["av.Packet[av.AudioStream]"] | None:
    track = _inspect(audio, container)
    if track is None:
        return None
    n_samples = round(duration_s * track.rate_hz)
    surplus = track.n_packets * track.packet_samples - track.n_priming - n_samples
    # Where the packets do not add up to the length that a player plays (a gap, an odd edit list), encode anew instead.
    if not 0 <= surplus < 3 * track.packet_samples:
        return None
    opened = closing.enter_context(open_av(closing.enter_context(audio.open("rb")), container))
    source = opened.streams.audio[0]
    stream = output.add_stream_from_template(source)
    return _retimed((packet for packet in packets_of(opened, source) if packet.size), stream, track, n_samples)


def _inspect(audio: Path, container: Container) -> _AacTrack | None:
    """The track's timing if it is plain AAC that an MP4 may carry as it is, else None."""
    with audio.open("rb") as file, open_av(file, container) as opened:
        stream = opened.streams.audio[0]
        context = stream.codec_context
        if context.name != "aac" or context.sample_rate not in AAC_RATES_HZ:
            return None
        if context.profile != "LC" or not 1 <= context.layout.nb_channels <= MAX_AAC_CHANNELS:
            return None
        n_packets = n_priming = 0
        for packet in packets_of(opened, stream):
            if not packet.size:
                continue
            if n_packets == 0 and packet.has_sidedata("skip_samples"):
                # FFmpeg's AVPacketSideData begins with the number of samples to drop at the start, little-endian.
                n_priming = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[:4], "little")
            n_packets += 1
        return _AacTrack(context.sample_rate, _FRAME_SAMPLES, n_priming, n_packets)


def _retimed(
    packets: Iterator["av.Packet[av.AudioStream]"], stream: "av.AudioStream", track: _AacTrack, n_samples: int
) -> Iterator["av.Packet[av.AudioStream]"]:
    """`packets` with consecutive time stamps: the priming lies before 0, and the last packet ends at `n_samples`."""
    start = -track.n_priming
    for packet in packets:
        if start >= n_samples:
            return
        packet.stream = stream
        packet.time_base = Fraction(1, track.rate_hz)
        packet.pts = packet.dts = start
        packet.duration = min(track.packet_samples, n_samples - start)
        start += track.packet_samples
        yield packet


# All other codecs: encoded at their own rate and channels


def _encoded(
    output: "av.container.OutputContainer", sound: Sound, duration_s: float
) -> Iterator["av.Packet[av.AudioStream]"]:
    rate = _aac_rate(sound.format.rate_hz)
    channels = sound.format.channels if sound.format.channels <= MAX_AAC_CHANNELS else 2
    layout = sound.format.layout if sound.format.layout in _AAC_LAYOUTS else _USUAL_LAYOUTS[channels]
    # Noise substitution and intensity stereo save bits by inventing sound, so both are off. At this bit rate the fast
    # coder is also closer to the source: 38 dB against 30 dB on speech.
    stream = output.add_stream("aac", rate=rate, options={"aac_pns": "0", "aac_is": "0", "aac_coder": "fast"})
    assert isinstance(stream, av.AudioStream)
    context = stream.codec_context
    context.layout = layout
    context.format = "fltp"
    context.time_base = Fraction(1, rate)
    context.bit_rate = bit_rate_for(rate, channels)
    context.open()
    return _encode(_resampled(sound, rate, channels), stream, rate, layout, round(duration_s * rate))


def _encode(
    blocks: Iterator[Block], stream: "av.AudioStream", rate: int, layout: str, n_samples: int
) -> Iterator["av.Packet[av.AudioStream]"]:
    n_sent = 0
    for block in _regrouped(blocks, n_samples):
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = n_sent
        n_sent += len(block)
        yield from _trimmed(stream.encode(frame), n_samples)
    yield from _trimmed(stream.encode(None), n_samples)


def _trimmed(packets: list["av.Packet[av.AudioStream]"], n_samples: int) -> Iterator["av.Packet[av.AudioStream]"]:
    """Packets up to `n_samples`. The duration of the last packet ends there, without the encoder's padding."""
    for packet in packets:
        assert packet.pts is not None
        if packet.pts < n_samples:
            packet.duration = min(_FRAME_SAMPLES, n_samples - packet.pts)
            yield packet


def _regrouped(blocks: Iterator[Block], n_samples: int) -> Iterator[Block]:
    """`blocks` cut into the encoder's frames, and cut off or filled up with silence at exactly `n_samples`."""
    waiting: Block | None = None
    n_out = 0
    for block in blocks:
        waiting = block if waiting is None else np.concatenate([waiting, block])
        while len(waiting) >= _FRAME_SAMPLES and n_out < n_samples:
            frame, waiting = waiting[:_FRAME_SAMPLES], waiting[_FRAME_SAMPLES:]
            yield frame[: n_samples - n_out]
            n_out += _FRAME_SAMPLES
    while n_out < n_samples and waiting is not None:
        n_frame = min(_FRAME_SAMPLES, n_samples - n_out)
        frame = waiting[:n_frame]
        yield np.pad(frame, ((0, n_frame - len(frame)), (0, 0)))
        waiting = waiting[n_frame:]
        n_out += n_frame


def _resampled(sound: Sound, rate: int, channels: int) -> Iterator[Block]:
    source_rate = sound.format.rate_hz
    resampler = soxr.ResampleStream(source_rate, rate, channels, dtype="float32") if source_rate != rate else None
    for block in sound.blocks():
        mixed = np.clip(_mixed(block, channels), -1.0, 1.0)
        yield mixed if resampler is None else resampler.resample_chunk(mixed)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _mixed(block: Block, channels: int) -> Block:
    """More channels than AAC allows (from a mixing desk) become stereo: the odd ones left, the even ones right."""
    if block.shape[1] == channels:
        return block
    sides: list[NDArray[np.float32]] = [to_mono(block[:, side::2]) for side in (0, 1)]
    return np.stack(sides, axis=1)


def _aac_rate(rate_hz: int) -> int:
    """The AAC sample rate in Hz for a source's rate: the same or the next one above, else half of the source's rate."""
    while rate_hz > AAC_RATES_HZ[-1]:
        rate_hz = -(-rate_hz // 2)
    return next(rate for rate in AAC_RATES_HZ if rate >= rate_hz)


def bit_rate_for(rate_hz: int, channels: int) -> int:
    """Bits per second at which AAC keeps even noise, within AAC's limit of 6144 bits a frame and channel."""
    wanted = {1: 160_000, 2: 256_000}.get(channels, 112_000 * channels)
    return min(wanted, 6144 * rate_hz // _FRAME_SAMPLES * channels)

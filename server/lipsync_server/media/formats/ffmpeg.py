"""Reads recordings and videos with FFmpeg: with one demuxer, a closed list of decoders, and no other file or address.

Knows PyAV. sound/recording.py uses it for the kinds that libsndfile does not read. Holds one block of samples at a
time.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import BinaryIO, NoReturn

import av
import numpy as np

from lipsync_server.errors import InvalidAudio
from lipsync_server.media.formats.container import DEMUXERS, Container
from lipsync_server.media.formats.sound_format import Block, SoundFormat
from lipsync_server.media.info import Warnings

BLOCK_SAMPLES = 16_384
AUDIO_DECODERS = frozenset(
    ["aac", "mp3", "mp3float", "mp2", "mp2float", "opus", "libopus", "vorbis", "libvorbis", "flac", "alac", "amrnb"]
    + ["amrwb", "libopencore_amrnb", "libopencore_amrwb", "ac3", "eac3", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"]
    + ["gsm", "gsm_ms", "speex", "libspeex", "pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw"]
    + [f"pcm_{kind}{bits}{end}" for kind in "suf" for bits in (16, 24, 32, 64) for end in ("le", "be")]
)
VIDEO_DECODERS = frozenset(
    ["h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"]
)


def _refuse(*_: object) -> NoReturn:
    raise PermissionError("a media file may not open another file")


def open_av(
    file: BinaryIO, container: Container, decoders: frozenset[str] = AUDIO_DECODERS
) -> "av.container.InputContainer":
    """Open `file` with the one demuxer of `container`. FFmpeg can use no other file, URL, demuxer or decoder."""
    options = {
        "format_whitelist": DEMUXERS[container],
        "codec_whitelist": ",".join(sorted(decoders)),
        "protocol_whitelist": "none",
    }
    if container == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    return av.open(file, "r", format=DEMUXERS[container], options=options, io_open=_refuse)


class FfmpegReader:
    """One recording, opened by FFmpeg: its format, and its samples, which can be read once."""

    def __init__(self, file: BinaryIO, container: Container, closing: ExitStack) -> None:
        """Raises InvalidAudio for a damaged recording or one without sound. `closing` closes it."""
        self._n_damaged = self._n_packets = 0
        self._broke_off = False
        try:
            opened = closing.enter_context(open_av(file, container))
        except (av.FFmpegError, OSError, ValueError) as problem:
            raise InvalidAudio(
                f"The recording is damaged or cut off ({_reason(problem)}). Send the whole file again."
            ) from None
        if not opened.streams.audio:
            raise InvalidAudio("The file has no sound track. Send one with sound.")
        self._opened, self._stream = opened, opened.streams.audio[0]
        self._n_tracks = len(opened.streams.audio)
        context = self._stream.codec_context
        # The list of decoders in open_av binds FFmpeg while it probes the file, but not PyAV when it decodes.
        if context is None or context.name not in AUDIO_DECODERS or not (context.sample_rate and context.channels):
            raise InvalidAudio(
                "The sound in the file is cut off or of a kind that is not read. Export it again as wav or mp3."
            )
        codec = context.name.removesuffix("float")
        self.format = SoundFormat(container, codec, context.sample_rate, context.channels, context.layout.name)
        self._n_declared = _declared_samples(self._stream, container)

    def blocks(self) -> Iterator[Block]:
        """The samples in blocks of about BLOCK_SAMPLES; call it once."""
        return _batched(_ended_at(self._decode(), self._n_declared))

    def warnings(self) -> Warnings:
        """Sentences about sound that was lost or left out; complete once the blocks are read."""
        sentences = []
        if self._n_tracks > 1:
            sentences.append(f"The file has {self._n_tracks} sound tracks; the first one was used.")
        if self._n_damaged:
            sentences.append(
                f"{self._n_damaged} of the recording's {self._n_packets} packets are damaged; silence stands in their"
                " place."
            )
        if self._broke_off:
            sentences.append("The recording is damaged near its end; anything behind the damage was left out.")
        return tuple(sentences)

    def _packets(self) -> Iterator["av.Packet[av.AudioStream]"]:
        """The sound's packets. A failure of the demuxer ends them and is noted for `warnings`."""
        packets = self._opened.demux(self._stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self._broke_off = True
                return

    def _decode(self) -> Iterator[Block]:
        """The decoded blocks, with silence for a damaged packet. Raises InvalidAudio if too many are damaged."""
        rate, channels = self.format.rate_hz, self.format.channels
        converter: Converter | None = None
        for packet in self._packets():
            self._n_packets += 1
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.FFmpegError:
                self._n_damaged += 1
                if converter is not None and packet.duration and packet.time_base:
                    # Players keep time over a packet that cannot be decoded, and so must the length of the recording.
                    yield np.zeros((round(packet.duration * packet.time_base * rate), channels), np.float32)
                continue
            for frame in frames:
                if converter is None or not converter.takes(frame):
                    if converter is not None:
                        yield from converter.convert(None)
                    converter = Converter(frame, self.format)
                yield from converter.convert(frame)
        if converter is not None:
            yield from converter.convert(None)
        if converter is None and not self._n_damaged:
            raise InvalidAudio("The recording holds no sound at all. Send it again.")
        if converter is None or self._n_damaged > max(3, self._n_packets // 10):
            raise InvalidAudio(
                f"The recording is damaged: {self._n_damaged} of its {self._n_packets} packets cannot be decoded."
                " Send it again, or export it as wav."
            )


class Converter:
    """Converts sound frames of one format to float32 blocks (n, channels) in the recording's format.

    The format may change within a recording that was joined from several recordings; all get the format of the first.
    Planar frames (one plane a channel) need the conversion: PyAV reads beyond the planes of one with eight channels.
    """

    def __init__(self, first: "av.AudioFrame", target: SoundFormat) -> None:
        self._source = _form(first)
        self._channels = target.channels
        self._resampler = av.AudioResampler("flt", target.layout, target.rate_hz)

    def takes(self, frame: "av.AudioFrame") -> bool:
        """Whether `frame` has the format that this converter was made for."""
        return _form(frame) == self._source

    def convert(self, frame: "av.AudioFrame | None") -> Iterator[Block]:
        """The samples of `frame`, or with None the samples that the resampler still holds."""
        if frame is not None:
            frame.pts = None
        for converted in self._resampler.resample(frame):
            yield converted.to_ndarray().reshape(-1, self._channels).astype(np.float32, copy=False)


def _form(frame: "av.AudioFrame") -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def packets_of(
    opened: "av.container.InputContainer", stream: "av.AudioStream"
) -> Iterator["av.Packet[av.AudioStream]"]:
    """The stream's packets. Where the demuxer fails at damage the stream ends, as it does in a player."""
    packets = opened.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.FFmpegError):
            return


def _declared_samples(stream: "av.AudioStream", container: Container) -> int | None:
    """The samples of the sound by an MP4/MOV's edit list; the decoder alone would also give the encoder's padding."""
    if container != "mov" or not stream.frames or not stream.duration or not stream.time_base:
        return None
    return round(Fraction(stream.duration) * stream.time_base * stream.codec_context.sample_rate)


def _ended_at(blocks: Iterator[Block], n_declared: int | None, padding: int = 4096) -> Iterator[Block]:
    """`blocks` up to `n_declared` samples; the encoder's padding behind them is left out.

    If more than `padding` samples follow, the declared number is wrong, and all blocks are returned.
    """
    if n_declared is None:
        yield from blocks
        return
    n_read, surplus, believed = 0, list[Block](), True
    for block in blocks:
        n_before, n_read = n_read, n_read + len(block)
        if not believed:
            yield block
            continue
        n_kept = min(len(block), max(0, n_declared - n_before))
        if n_kept:
            yield block[:n_kept]
        if n_kept < len(block):
            surplus.append(block[n_kept:])
            if n_read - n_declared > padding:
                believed = False
                yield from surplus
                surplus.clear()


def _batched(blocks: Iterator[Block]) -> Iterator[Block]:
    """`blocks` joined to about BLOCK_SAMPLES each: for frames of 20 ms the calls cost more than the arithmetic."""
    waiting: list[Block] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= BLOCK_SAMPLES:
            yield np.concatenate(waiting)
            waiting, n_waiting = [], 0
    if n_waiting:
        yield np.concatenate(waiting)


def _reason(problem: Exception) -> str:
    """FFmpeg's reason in words, without its error number."""
    return (getattr(problem, "strerror", None) or str(problem) or type(problem).__name__).strip().rstrip(".")

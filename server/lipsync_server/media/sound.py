"""Any recording on the closed list, as a stream of float32 blocks at its own rate and channels.

Knows soundfile, and PyAV for what soundfile cannot read. Knows no limits and no resampling: audio.py judges and
resamples, mux.py encodes. Holds one block at a time, so memory does not grow with the recording.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, Self

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from lipsync_server.errors import InvalidAudio, UnsupportedMedia
from lipsync_server.media.container import AUDIO_KINDS, DEMUXERS, Container, sniff
from lipsync_server.media.recognise import N8N_ADVICE, describe, is_text
from lipsync_server.media.structure import check_structure

Block = NDArray[np.float32]

RATES_HZ = range(4_000, 384_001)
MAX_CHANNELS = 32
MAX_SAMPLES_PER_S = 3_200_000
"""Over all channels: sixteen at 192 kHz. Silence compresses so well that more would keep a core busy for hours."""
_BLOCK_SAMPLES = 16_384
_PCM_ADVICE = (
    "If it is raw PCM, which has no header to tell rate and channels, ask the text-to-speech service for wav or mp3."
)
# libsndfile drops the end of an mp3 without a Xing header, so mp3 is PyAV's although libsndfile claims it.
_SOUNDFILE_KINDS: frozenset[Container] = frozenset({"wav", "flac", "ogg", "aiff", "caf", "au"})
_SOUNDFILE_CODECS = {
    *("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS"),
}
AUDIO_DECODERS = frozenset(
    ["aac", "mp3", "mp3float", "mp2", "mp2float", "opus", "libopus", "vorbis", "libvorbis", "flac", "alac", "amrnb"]
    + ["amrwb", "libopencore_amrnb", "libopencore_amrwb", "ac3", "eac3", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"]
    + ["gsm", "gsm_ms", "speex", "libspeex", "pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw"]
    + [f"pcm_{kind}{bits}{end}" for kind in "suf" for bits in (16, 24, 32, 64) for end in ("le", "be")]
)
VIDEO_DECODERS = frozenset(
    ["h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"]
)


@dataclass(frozen=True)
class SoundFormat:
    """How a recording is stored. `layout` is FFmpeg's name of the channel layout ("stereo", "5.1")."""

    container: Container
    codec: str
    rate_hz: int
    channels: int
    layout: str


def _refuse(*_: object) -> NoReturn:
    raise PermissionError("a media file may not open another file")


def open_av(
    file: BinaryIO, container: Container, decoders: frozenset[str] = AUDIO_DECODERS
) -> "av.container.InputContainer":
    """Open `file` with the one demuxer of `container`; FFmpeg can reach no other file, URL, demuxer or decoder."""
    options = {
        "format_whitelist": DEMUXERS[container],
        "codec_whitelist": ",".join(sorted(decoders)),
        "protocol_whitelist": "none",
    }
    if container == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    return av.open(file, "r", format=DEMUXERS[container], options=options, io_open=_refuse)


def identify(path: Path) -> Container:
    """The container of a recording. Raises InvalidAudio for an empty or cut-off file, UnsupportedMedia for others."""
    if path.stat().st_size == 0:
        raise InvalidAudio("The recording is an empty file. Send it again.")
    container = sniff(path)
    if container is None:
        advice = N8N_ADVICE if is_text(path) else _PCM_ADVICE
        raise UnsupportedMedia(
            f"The recording cannot be read: the file is {describe(path)}. {advice} Send {AUDIO_KINDS}."
        )
    check_structure(path, container)
    return container


class Sound:
    """An open recording: its format, and its samples once, in order. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        """Raises UnsupportedMedia for what is no recording, InvalidAudio for a damaged one or one without sound."""
        self._closing = ExitStack()
        self.n_damaged = 0
        """Packets that could not be decoded so far; silence stands in for them."""
        self.n_packets = 0
        container = identify(path)
        try:
            self._blocks: Callable[[], Iterator[Block]]
            if container not in _SOUNDFILE_KINDS or not self._open_soundfile(path, container):
                self._open_av(path, container)
            self._check_format()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._closing.close()

    def blocks(self) -> Iterator[Block]:
        """The samples as float32 (n, channels), full scale -1 to 1, in blocks of varying length; call it once."""
        return self._blocks()

    def _check_format(self) -> None:
        rate, channels = self.format.rate_hz, self.format.channels
        if rate not in RATES_HZ or not 1 <= channels <= MAX_CHANNELS or rate * channels > MAX_SAMPLES_PER_S:
            raise InvalidAudio(
                f"The recording has {rate} samples a second in {channels} channel(s), which"
                " is no speech. Export it again as mono or stereo at 16 to 48 kHz."
            )

    # wav, flac, ogg and other kinds that libsndfile reads

    def _open_soundfile(self, path: Path, container: Container) -> bool:
        try:
            file = self._closing.enter_context(soundfile.SoundFile(path))
        except soundfile.LibsndfileError:
            return False  # a codec that libsndfile lacks: PyAV has the next say
        if file.subtype not in _SOUNDFILE_CODECS or file.channels > 2:
            return False  # mp3 or ADPCM in a wav loses its length; libsndfile does not tell which speaker is which
        if not 0 < file.frames < 1 << 48:
            return False  # a stream that was never finished: its length is found by decoding
        layout = "mono" if file.channels == 1 else "stereo"
        self.format = SoundFormat(container, str(file.subtype).lower(), file.samplerate, file.channels, layout)
        self._blocks = lambda: self._read_soundfile(file, container)
        return True

    def _read_soundfile(self, file: soundfile.SoundFile, container: Container) -> Iterator[Block]:
        n_declared, n_read = file.frames, 0
        while True:
            try:
                block: Block = file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as problem:
                raise InvalidAudio(
                    f"The recording is damaged after {n_read / file.samplerate:.2f} s ({problem}). Send it again."
                ) from None
            if not len(block):
                break
            n_read += len(block)
            yield block
        if container == "flac" and n_read < n_declared:
            raise InvalidAudio(
                f"The recording is cut off: {n_read / file.samplerate:.2f} of {n_declared / file.samplerate:.2f} s are"
                " there. Send the whole file again."
            )

    # everything else

    def _open_av(self, path: Path, container: Container) -> None:
        file = self._closing.enter_context(path.open("rb"))
        try:
            opened = self._closing.enter_context(open_av(file, container))
        except (av.FFmpegError, OSError, ValueError) as problem:
            raise InvalidAudio(
                f"The recording is damaged or cut off ({_words(problem)}). Send the whole file again."
            ) from None
        if not opened.streams.audio:
            raise InvalidAudio("The file has no sound track. Send one with sound.")
        stream = opened.streams.audio[0]
        context = stream.codec_context
        # The whitelist in open_av binds FFmpeg while it looks into the file, but not PyAV when it decodes.
        if context is None or context.name not in AUDIO_DECODERS or not (context.sample_rate and context.channels):
            raise InvalidAudio(
                "The sound in the file is cut off or of a kind that is not read. Export it again as wav or mp3."
            )
        self.format = SoundFormat(
            container, context.name.removesuffix("float"), context.sample_rate, context.channels,
            context.layout.name,
        )  # fmt: skip
        n_declared = _declared_samples(stream, container)
        self._blocks = lambda: _batched(_ended_at(self._decode(opened, stream), n_declared))

    def _decode(self, opened: "av.container.InputContainer", stream: "av.AudioStream") -> Iterator[Block]:
        rate, channels = self.format.rate_hz, self.format.channels
        converter: _Converter | None = None
        for packet in packets_of(opened, stream):
            self.n_packets += 1
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                self.n_damaged += 1
                if converter is not None and packet.duration and packet.time_base:
                    # Players keep time over a packet that they cannot decode; so does the length that we compute.
                    yield np.zeros((round(packet.duration * packet.time_base * rate), channels), np.float32)
                continue
            for frame in frames:
                if converter is None or not converter.takes(frame):
                    if converter is not None:
                        yield from converter.convert(None)
                    converter = _Converter(frame, self.format)
                yield from converter.convert(frame)
        if converter is not None:
            yield from converter.convert(None)
        if converter is None or self.n_damaged > max(3, self.n_packets // 10):
            raise InvalidAudio(
                f"The recording is damaged: {self.n_damaged} of its {self.n_packets} packets cannot be decoded."
                " Send it again, or export it as wav."
            )


class _Converter:
    """Frames of one format to float32 blocks in the recording's format.

    Recordings that were glued together change their format on the way; the first one's then holds throughout.
    Planar frames must go this way: PyAV reads beyond the planes of one with eight channels or more.
    """

    def __init__(self, first: "av.AudioFrame", target: SoundFormat) -> None:
        self._source = _form(first)
        self._channels = target.channels
        self._resampler = av.AudioResampler("flt", target.layout, target.rate_hz)

    def takes(self, frame: "av.AudioFrame") -> bool:
        return _form(frame) == self._source

    def convert(self, frame: "av.AudioFrame | None") -> Iterator[Block]:
        """The samples of `frame`, or with None what the resampler still holds."""
        if frame is not None:
            frame.pts = None
        for converted in self._resampler.resample(frame):
            yield converted.to_ndarray().reshape(-1, self._channels).astype(np.float32, copy=False)


def _form(frame: "av.AudioFrame") -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def packets_of(
    opened: "av.container.InputContainer", stream: "av.AudioStream"
) -> Iterator["av.Packet[av.AudioStream]"]:
    """The stream's packets; a demuxer that trips over damage ends the stream, as it does in a player."""
    packets = opened.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.FFmpegError):
            return


def _declared_samples(stream: "av.AudioStream", container: Container) -> int | None:
    """Where the edit list of an MP4/MOV ends the sound; the decoder alone would also give the encoder's padding."""
    if container != "mov" or not stream.frames or not stream.duration or not stream.time_base:
        return None
    return round(Fraction(stream.duration) * stream.time_base * stream.codec_context.sample_rate)


def _ended_at(blocks: Iterator[Block], n_declared: int | None, padding: int = 4096) -> Iterator[Block]:
    """`blocks` up to `n_declared` samples; all of them if more than `padding` follow, for then the header is wrong."""
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
    """`blocks` gathered to about _BLOCK_SAMPLES each: frames of 20 ms cost more in calls than in arithmetic."""
    waiting: list[Block] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= _BLOCK_SAMPLES:
            yield np.concatenate(waiting)
            waiting, n_waiting = [], 0
    if n_waiting:
        yield np.concatenate(waiting)


def _words(problem: Exception) -> str:
    return (getattr(problem, "strerror", None) or str(problem) or type(problem).__name__).strip().rstrip(".")

"""Recordings of every promised kind, made with real encoders, and the values that the server must find in them."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from lipsync_server.media.sound.speech import map_speech, probe_audio, write_speech

RATE = 16_000


def load_speech(path: Path, scratch: Path) -> tuple[np.ndarray, float]:
    """The speech that a model hears, and the recording's length in seconds."""
    file = write_speech(path, scratch, max_s=1800)
    return map_speech(file), file.duration_s


def voice(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A buzz that swells and fades and never repeats: float32 (n, channels)."""
    t = np.arange(round(seconds * rate)) / rate
    sound = 0.4 * np.sin(2 * np.pi * (180 + 40 * t) * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 3.1 * t))
    return np.repeat(sound[:, None], channels, axis=1).astype(np.float32)


def encode(path: Path, codec: str, container: str, samples: np.ndarray, rate: int) -> Path:
    """Write `samples` with a real encoder."""
    if codec == "libvorbis":  # PyAV is built without it
        soundfile.write(path, samples, rate, format="OGG", subtype="VORBIS")
        return path
    with av.open(str(path), "w", format=container) as out:
        layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[samples.shape[1]]
        stream = out.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.open()
        resampler = av.AudioResampler(
            stream.codec_context.format, layout, rate, frame_size=stream.codec_context.frame_size or None
        )
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


def probe(path: Path, min_s: float = 0.2, max_s: float = 1800) -> float:
    return probe_audio(path, min_s=min_s, max_s=max_s).duration_s


def wav(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype, format="WAV")
    return path


# (name, codec, FFmpeg muxer, rate, how many seconds the codec may add at the ends)
CODED = [
    ("wav", "pcm_s16le", "wav", 44_100, 0.0),
    ("flac", "flac", "flac", 44_100, 0.0),
    ("mp3", "libmp3lame", "mp3", 44_100, 0.001),
    ("m4a", "aac", "mp4", 44_100, 0.001),
    ("mov", "aac", "mov", 48_000, 0.001),
    ("alac", "alac", "mp4", 44_100, 0.0),
    ("aac", "aac", "adts", 44_100, 0.05),
    ("opus", "libopus", "ogg", 48_000, 0.001),
    ("ogg", "libvorbis", "ogg", 44_100, 0.001),
    ("webm", "libopus", "webm", 48_000, 0.021),
    ("mka", "aac", "matroska", 44_100, 0.05),
    ("amr", "libopencore_amrnb", "amr", 8_000, 0.025),
]


def with_data_size(path: Path, size: int) -> Path:
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    return path

"""Frames and the caller's sound to MP4: exact lengths, sync, colours; and videos that stand in for the picture."""

import hashlib
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lipsync_server.errors import InvalidImage, UnsupportedMedia
from lipsync_server.media.formats.container import boxes
from lipsync_server.media.info import VideoInfo
from lipsync_server.media.mp4.encoder import FrameEncoder
from lipsync_server.media.mp4.mux import mux, probe_video
from lipsync_server.media.picture.video import first_frame, probe_picture_video, read_video_frames
from lipsync_server.media.sound.speech import probe_audio
from numbered_frames import HEIGHT, WIDTH, batch, number_of, numbered, recording, shown_frames


def seconds(ticks: int | None, time_base: Fraction | None) -> Fraction:
    """A time of the container; fails where the container has none."""
    assert ticks is not None
    assert time_base is not None
    return ticks * time_base


def frame_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as opened:
        return [seconds(frame.pts, frame.time_base) for frame in opened.decode(video=0)]


def heard(path: Path) -> tuple[np.ndarray, int]:
    """The decoded sound as (n, channels), and its rate."""
    with av.open(str(path)) as opened:
        resampler = av.AudioResampler("flt")
        frames = [part for frame in opened.decode(audio=0) for part in resampler.resample(frame)]
        n_channels = frames[0].layout.nb_channels
        return np.concatenate([frame.to_ndarray().reshape(-1, n_channels) for frame in frames]), frames[0].sample_rate


def make_video(folder: Path, audio: Path, *, fps: int = 25, output: str = "out.mp4") -> tuple[VideoInfo, Path]:
    duration_s = probe_audio(audio, min_s=0.0, max_s=1800).duration_s
    encoder = FrameEncoder(folder / f"{output}.segments", fps=fps)
    encoder.write(batch(0, math.ceil(duration_s * fps - 1e-6)))
    encoder.close()
    info = mux(folder / f"{output}.segments", audio, folder / output, fps=fps, duration_s=duration_s)
    return info, folder / output


@settings(max_examples=16, deadline=None)
@given(
    n_samples=st.integers(1_600, 25_000),
    rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
    ends=st.lists(st.integers(1, 12), max_size=6),
)
def test_frames_in_are_frames_out_for_any_duration(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, rate: int, ends: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("video")
    duration_s = n_samples / rate
    n_frames = math.ceil(duration_s * 25 - 1e-6)
    audio = recording(folder / "a.wav", duration_s, rate)
    encoder = FrameEncoder(folder / "segments")
    start = 0
    for length in ends:  # An engine may end a segment at any frame.
        end = min(n_frames, start + length)
        encoder.write(batch(start, end) if end > start else np.zeros((0, HEIGHT, WIDTH, 3), np.uint8))
        assert encoder.end_segment() == end
        start = end
    if start < n_frames:
        encoder.write(batch(start, n_frames))
    encoder.close()
    info = mux(folder / "segments", audio, folder / "out.mp4", duration_s=duration_s)
    assert info.n_frames == n_frames
    assert [number_of(frame) for frame in shown_frames(folder / "out.mp4")] == list(range(n_frames))
    assert frame_times(folder / "out.mp4") == [Fraction(index, 25) for index in range(n_frames)]
    with av.open(str(folder / "out.mp4")) as opened:
        video, sound = opened.streams.video[0], opened.streams.audio[0]
        sound_s = seconds(sound.duration, sound.time_base)
        assert sound_s == pytest.approx(duration_s, abs=1e-4)
        assert 0 <= seconds(video.duration, video.time_base) - sound_s < Fraction(1, 25) + 1e-3


def test_the_mp4_has_the_form_that_players_and_sites_need(tmp_path: Path) -> None:
    info, path = make_video(tmp_path, recording(tmp_path / "a.wav", 2.0, channels=2))
    with av.open(str(path)) as opened:
        video, sound = opened.streams.video[0], opened.streams.audio[0]
        context = video.codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert {video.average_rate, video.base_rate} == {Fraction(25)}
        assert (context.color_range, context.colorspace) == (1, 1)  # limited range, BT.709
        assert (context.color_primaries, context.color_trc) == (1, 1)
        assert (sound.codec_context.name, sound.codec_context.profile) == ("aac", "LC")
        assert seconds(video.start_time, video.time_base) == 0
        assert seconds(sound.start_time, sound.time_base) == 0
    with path.open("rb") as file:
        kinds = [box.kind for box in boxes(file, 0, path.stat().st_size)]
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    assert b"colrnclx\x00\x01\x00\x01\x00\x01\x00" in path.read_bytes()
    assert info == VideoInfo(
        WIDTH, HEIGHT, 25.0, 50, 2.0, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    )
    assert probe_video(path) == info


def test_colours_come_back_as_they_went_in(tmp_path: Path) -> None:
    colours = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    frame = np.kron(colours, np.ones((16, 16, 1), np.uint8))
    encoder = FrameEncoder(tmp_path / "segments", crf=4)
    encoder.write(np.repeat(frame[None], 5, axis=0))
    encoder.close()
    mux(tmp_path / "segments", recording(tmp_path / "a.wav", 0.2), tmp_path / "o.mp4", duration_s=0.2)
    with av.open(str(tmp_path / "o.mp4")) as opened:
        planes = next(opened.decode(video=0)).to_ndarray().astype(float)
    # BT.709, limited range, by the formula of ITU-R BT.709-6
    r, g, b = (colours[..., channel] / 255 for channel in range(3))
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    assert np.abs(planes[8:64:16, 8::16] - (16 + 219 * luma)).max() < 3
    blue = planes[64:80].reshape(32, 48)[4::8, 4::8]
    red = planes[80:96].reshape(32, 48)[4::8, 4::8]
    assert np.abs(blue - (128 + 224 * (b - luma) / 1.8556)).max() < 4
    assert np.abs(red - (128 + 224 * (r - luma) / 1.5748)).max() < 4


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_sound_keeps_its_rate_level_and_place(tmp_path: Path, rate: int) -> None:
    audio = recording(tmp_path / "a.wav", 1.5, rate, channels=2)
    _, path = make_video(tmp_path, audio)
    given_sound, _ = soundfile.read(audio, dtype="float32", always_2d=True)
    got, got_rate = heard(path)
    assert (got_rate, got.shape[1]) == (rate, 2)
    assert 0 <= len(got) - len(given_sound) < 1024
    got = got[: len(given_sound)]
    assert np.corrcoef(got[:, 0], given_sound[:, 0])[0, 1] > 0.99  # at zero delay
    assert abs(20 * np.log10(got.std() / given_sound.std())) < 0.5


@pytest.mark.parametrize(("rate", "wanted"), [(192_000, 96_000), (176_400, 88_200), (37_800, 44_100), (5_512, 8_000)])
def test_rates_that_aac_lacks_become_the_nearest_that_loses_least(tmp_path: Path, rate: int, wanted: int) -> None:
    _, path = make_video(tmp_path, recording(tmp_path / "a.wav", 0.6, rate))
    got, got_rate = heard(path)
    assert got_rate == wanted
    assert 0 <= len(got) / wanted - 0.6 < 1025 / wanted


@pytest.mark.parametrize(("channels", "wanted"), [(1, 1), (3, 3), (6, 6), (8, 8), (12, 2)])
def test_channels_are_kept_as_far_as_aac_goes(tmp_path: Path, channels: int, wanted: int) -> None:
    _, path = make_video(tmp_path, recording(tmp_path / "a.wav", 0.4, channels=channels))
    got, _ = heard(path)
    assert got.shape[1] == wanted
    assert got.std() > 0.01


def aac_file(path: Path, container: str, seconds: float = 1.3, **options: str) -> Path:
    rng = np.random.default_rng(9)
    with av.open(str(path), "w", format=container, options=options) as out:
        stream = out.add_stream("aac", rate=44_100, layout="stereo")
        for start in range(0, round(seconds * 44_100), 1024):
            n = min(1024, round(seconds * 44_100) - start)
            noise = rng.standard_normal((2, n)).astype(np.float32) * 0.1
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44_100, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as opened:
        return [bytes(packet) for packet in opened.demux(audio=0) if packet.size]


@pytest.mark.parametrize(
    ("container", "options"),
    [("mp4", {}), ("mov", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov"}), ("adts", {}), ("matroska", {})],
)
def test_aac_is_copied_packet_for_packet(tmp_path: Path, container: str, options: dict[str, Any]) -> None:
    audio = aac_file(tmp_path / "a.bin", container, **options)
    _, path = make_video(tmp_path, audio)
    headers = 7 if container == "adts" else 0
    assert packets_of(path) == [packet[headers:] for packet in packets_of(audio)]
    given_sound, _ = heard(audio)
    got, _ = heard(path)
    assert len(got) == len(given_sound)
    assert np.abs(got - given_sound).max() < 1e-6


def test_an_mp3_starts_and_ends_where_a_player_plays_it(tmp_path: Path) -> None:
    samples, _ = soundfile.read(recording(tmp_path / "a.wav", 1.0, 44_100), dtype="float32")
    with av.open(str(tmp_path / "a.mp3"), "w") as out:
        stream = out.add_stream("libmp3lame", rate=44_100, layout="mono")
        for start in range(0, len(samples), 1152):
            block = samples[None, start : start + 1152]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    info, path = make_video(tmp_path, tmp_path / "a.mp3")
    got, _ = heard(path)
    assert info.n_frames in (25, 26)
    assert np.corrcoef(got[: len(samples), 0], samples)[0, 1] > 0.98


def test_a_half_written_video_is_never_visible(tmp_path: Path) -> None:
    audio = recording(tmp_path / "a.wav", 0.4)
    encoder = FrameEncoder(tmp_path / "segments")
    encoder.write(batch(0, 10))
    encoder.close()
    output = tmp_path / "videos" / "out.mp4"
    output.parent.mkdir()
    audio.write_bytes(b"this is no sound any more")
    with pytest.raises(UnsupportedMedia):
        mux(tmp_path / "segments", audio, output, duration_s=0.4)
    assert list(output.parent.iterdir()) == []


def test_frames_that_do_not_fit_the_sound_are_refused(tmp_path: Path) -> None:
    audio = recording(tmp_path / "a.wav", 1.0)
    encoder = FrameEncoder(tmp_path / "segments")
    encoder.write(batch(0, 20))
    encoder.close()
    with pytest.raises(ValueError, match=r"20 frames at 25/s do not fit 1.000 s"):
        mux(tmp_path / "segments", audio, tmp_path / "o.mp4", duration_s=1.0)


def picture_video(path: Path, fps: int, n_frames: int, codec: str = "libx264", crf: str = "10") -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p", options={"crf": crf})
        assert isinstance(stream, av.VideoStream)
        for index in range(n_frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.webm", "libvpx-vp9")])
def test_a_video_may_stand_in_for_the_picture(tmp_path: Path, name: str, codec: str) -> None:
    path = picture_video(tmp_path / name, 30, 12, codec)
    info = probe_picture_video(path)
    assert (info.width, info.height, round(info.fps)) == (WIDTH, HEIGHT, 30)
    assert info.duration_s == pytest.approx(0.4, abs=0.01)
    frame = first_frame(path)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - numbered(0)).mean() < 4


@pytest.mark.parametrize("fps", [12, 25, 30])
def test_picture_frames_are_those_on_screen_at_25_a_second(tmp_path: Path, fps: int) -> None:
    path = picture_video(tmp_path / "a.mp4", fps, fps)
    indices = [0, 1, 2, 3, 7, 20, 24, 40, 24, 23, 3, 3, 0, 9]
    shown = [number_of(frame) for frame in read_video_frames(path, indices)]
    assert shown == [min(fps - 1, index * fps // 25) for index in indices]


def test_a_file_that_is_no_video_cannot_stand_in_for_the_picture(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    aac_file(tmp_path / "sound.mp4", "mp4")
    for name in ("text.mp4", "sound.mp4"):
        with pytest.raises(UnsupportedMedia):
            first_frame(tmp_path / name)
    whole = picture_video(tmp_path / "a.mp4", 25, 25).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidImage, match="cut off"):
        probe_picture_video(tmp_path / "cut.mp4")
    with pytest.raises(InvalidImage, match="96 x 64 pixels"):
        probe_picture_video(tmp_path / "a.mp4", max_pixels=1000)


def test_making_a_longer_video_needs_no_more_memory(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    program = """
import re, sys
from pathlib import Path
import numpy as np
from lipsync_server.media.mp4.encoder import FrameEncoder
from lipsync_server.media.mp4.mux import mux
folder, audio, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
encoder = FrameEncoder(folder / "segments")
frames = np.zeros((25, 256, 256, 3), np.uint8)
for second in range(seconds):
    encoder.write(frames)
encoder.close()
mux(folder / "segments", audio, folder / "o.mp4", duration_s=seconds)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    peaks_kib = []
    for length_s in (2, 45):
        audio = tmp_path / f"{length_s}.wav"
        soundfile.write(audio, np.zeros((length_s * 48_000, 2), np.int16), 48_000)
        folder = tmp_path / str(length_s)
        folder.mkdir()
        command = [sys.executable, "-c", program, str(folder), str(audio), str(length_s)]
        peaks_kib.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks_kib[1] - peaks_kib[0] < 12 * 1024  # the sound alone would be 16 MiB as floats

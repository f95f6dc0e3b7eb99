"""Recordings: exact lengths with every codec, 16 kHz mono for the model, and no access to another file."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lipsync_server.errors import InvalidAudio, LipsyncError, UnsupportedMedia
from lipsync_server.media.formats.container import boxes
from lipsync_server.media.formats.ffmpeg import open_av
from lipsync_server.media.sound.speech import probe_audio
from sounds import CODED, RATE, encode, load_speech, probe, voice, wav, with_data_size


@pytest.mark.parametrize(("name", "codec", "container", "rate", "slack_s"), CODED, ids=[row[0] for row in CODED])
def test_each_promised_kind_has_its_exact_length_and_speech(
    tmp_path: Path, name: str, codec: str, container: str, rate: int, slack_s: float
) -> None:
    seconds = 1.777
    channels = 1 if container == "amr" else 2
    path = encode(tmp_path / "recording.bin", codec, container, voice(seconds, rate, channels), rate)
    info = probe_audio(path, min_s=0.2, max_s=1800)
    assert 0 <= round(info.duration_s - seconds, 4) <= slack_s
    assert (info.rate_hz, info.channels) == (rate, channels)
    speech, duration_s = load_speech(path, tmp_path)
    assert duration_s == info.duration_s
    assert speech.dtype == np.float32
    assert len(speech) == int(np.ceil(info.duration_s * RATE - 1e-6))
    wanted = voice(seconds)[:, 0]
    delay = int(np.argmax(np.correlate(speech[:24_000], wanted[:20_000], "valid")))
    assert delay <= slack_s * RATE
    heard = speech[delay : delay + 20_000]
    assert np.corrcoef(heard, wanted[: len(heard)])[0, 1] > (0.9 if container == "amr" else 0.97)


def test_an_mp3_without_a_length_header_is_read_to_its_end(tmp_path: Path) -> None:
    # Streaming text-to-speech services send such files, and libsndfile stops half way through them.
    path = tmp_path / "streamed.mp3"
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=44_100, layout="mono", options={"q": "7", "abr": "0"})
        samples = voice(4, 44_100)
        samples[: 44_100 * 2] *= 0.001
        for start in range(0, len(samples), 1152):
            block = np.ascontiguousarray(samples[start : start + 1152].T)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert probe(path) == pytest.approx(4, abs=0.06)


def test_the_sound_track_of_a_video_is_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    samples = voice(1.0, 48_000)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        sound = out.add_stream("aac", rate=48_000, layout="mono")
        for _ in range(25):
            out.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        for start in range(0, len(samples), 1024):
            block = np.ascontiguousarray(samples[start : start + 1024].T)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            out.mux(sound.encode(frame))
        out.mux([*video.encode(None), *sound.encode(None)])
    assert probe(path) == pytest.approx(1.0, abs=0.001)


def test_eight_channels_are_read_and_averaged(tmp_path: Path) -> None:
    for codec, container in (("aac", "mp4"), ("flac", "flac"), ("libopus", "ogg")):
        path = encode(tmp_path / f"eight.{container}", codec, container, voice(0.5, 48_000, 8), 48_000)
        assert probe_audio(path, min_s=0.2, max_s=10).channels == 8
        speech, _ = load_speech(path, tmp_path)
        assert np.corrcoef(speech[800:7000], voice(0.5)[800:7000, 0])[0, 1] > 0.95


@settings(max_examples=25, deadline=None)
@given(n_samples=st.integers(3_200, 60_000), rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 96_000]))
def test_speech_covers_the_recording_exactly(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, rate: int
) -> None:
    folder = tmp_path_factory.mktemp("speech")
    path = wav(folder / "a.wav", np.random.default_rng(n_samples).uniform(-0.5, 0.5, n_samples), rate)
    speech, duration_s = load_speech(path, folder)
    assert duration_s == n_samples / rate
    assert len(speech) == -(-n_samples * RATE // rate)


def test_speech_is_a_read_only_memory_map_in_the_scratch_folder(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", voice(1.0))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    speech, _ = load_speech(path, scratch)
    assert isinstance(speech, np.memmap)
    assert [file.suffix for file in scratch.iterdir()] == [".f32"]
    with pytest.raises(ValueError, match="read-only"):
        speech[0] = 1.0
    again, _ = load_speech(path, scratch)
    assert np.array_equal(speech, again)


def test_two_recordings_in_one_scratch_folder_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first, _ = load_speech(wav(tmp_path / "a.wav", voice(1.0)), tmp_path)
    second, _ = load_speech(wav(tmp_path / "b" / "a.wav", voice(0.5) * 0), tmp_path)
    assert first.any()
    assert not second.any()


def test_silence_is_accepted(tmp_path: Path) -> None:
    path = wav(tmp_path / "silent.wav", np.zeros(RATE))
    assert probe(path) == 1.0
    assert not load_speech(path, tmp_path)[0].any()


def test_sound_louder_than_full_scale_is_clipped_for_the_model(tmp_path: Path) -> None:
    path = wav(tmp_path / "loud.wav", voice(0.5) * 5, subtype="FLOAT")
    speech, _ = load_speech(path, tmp_path)
    assert np.abs(speech).max() == 1.0


@pytest.mark.parametrize(
    ("seconds", "sentence"), [(0.05, r"0.05 s long; at least 0.2 s"), (3.0, r"longer than 2 seconds")]
)
def test_too_short_and_too_long_recordings_are_refused(tmp_path: Path, seconds: float, sentence: str) -> None:
    for path in (
        wav(tmp_path / "a.wav", voice(seconds)),
        encode(tmp_path / "a.m4a", "aac", "mp4", voice(seconds), RATE),
    ):
        with pytest.raises(InvalidAudio, match=sentence):
            probe(path, 0.2, 2.0)


def test_the_limits_themselves_are_accepted(tmp_path: Path) -> None:
    assert probe(wav(tmp_path / "a.wav", voice(0.2)), 0.2, 0.2) == 0.2


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.wav").touch()
    with pytest.raises(InvalidAudio, match="empty"):
        probe(tmp_path / "e.wav")


@pytest.mark.parametrize(("rate", "channels"), [(100, 1), (16_000, 200), (384_000, 16)])
def test_rates_and_channel_counts_of_no_recording_are_refused(tmp_path: Path, rate: int, channels: int) -> None:
    path = wav(tmp_path / "a.wav", np.zeros((rate // 4, channels)), rate)
    with pytest.raises(InvalidAudio, match=rf"{rate} samples a second in {channels} channel"):
        probe(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_refused(tmp_path: Path, value: float) -> None:
    samples = voice(0.5)
    samples[77] = value
    path = wav(tmp_path / "n.wav", samples, subtype="FLOAT")
    with pytest.raises(InvalidAudio, match="not numbers"):
        probe(path)
    with pytest.raises(InvalidAudio, match="not numbers"):
        load_speech(path, tmp_path)


def test_a_wav_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = with_data_size(wav(tmp_path / "a.wav", voice(1.0)), 90 * RATE * 2)
    with pytest.raises(InvalidAudio, match=r"promises 90.0 s of sound, but only 1.0 s"):
        probe(path)


@pytest.mark.parametrize("size", [2_000_000_000, 1_000_000_000, 5 * 3600 * RATE * 2])
def test_a_length_that_no_recording_can_have_is_a_placeholder_and_warned_about(tmp_path: Path, size: int) -> None:
    path = with_data_size(wav(tmp_path / "a.wav", voice(1.0)), size)
    info = probe_audio(path, min_s=0.2, max_s=1800)
    assert info.duration_s == 1.0
    assert "1.0 s that are in the file were used" in info.warnings[0]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_an_unfinished_aiff_or_au_is_read(tmp_path: Path, size: int) -> None:
    for name, mark, at in (("AIFF", b"SSND", 4), ("AU", b".snd", 8)):
        path = tmp_path / "a.bin"
        soundfile.write(path, voice(1.0), RATE, subtype="PCM_16", format=name)
        content = bytearray(path.read_bytes())
        where = content.index(mark) + at
        content[where : where + 4] = struct.pack(">I", size)
        path.write_bytes(content)
        if name == "AIFF" and size == 0:
            continue  # an empty sound chunk: the samples cannot be told from other chunks
        assert probe(path) == 1.0


@pytest.mark.parametrize(("name", "codec", "container", "rate"), [row[:4] for row in CODED if row[0] not in ("aac",)])
def test_cut_off_and_damaged_files_end_in_a_sentence(
    tmp_path: Path, name: str, codec: str, container: str, rate: int
) -> None:
    whole = encode(tmp_path / "whole", codec, container, voice(2.0, rate), rate).read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    if container != "amr":  # a bare run of frames: any part of it is a recording
        with pytest.raises(InvalidAudio, match=r"cut off|damaged"):
            probe(cut)
    rng = np.random.default_rng(len(whole))
    for _ in range(4):
        torn = np.frombuffer(whole, np.uint8).copy()
        torn[rng.integers(0, len(torn), 20)] ^= 0x55
        (tmp_path / "torn").write_bytes(torn.tobytes())
        try:
            seconds = probe(tmp_path / "torn", 0.0, 60)
        except LipsyncError as error:
            assert error.status in (415, 422)  # refused in words
        else:
            assert seconds < 60


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "mute.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        out.mux([*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode(None)])
    with pytest.raises(InvalidAudio, match="no sound track"):
        probe(tmp_path / "mute.mp4")


@pytest.fixture
def trap() -> Iterator[tuple[socket.socket, int]]:
    """A listening socket that must see no connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener, listener.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listener.accept()


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n#EXTINF:9,\n/etc/passwd\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '/etc/passwd'\nfile 'http://127.0.0.1:{port}/a.wav'\n",
    "list.concat": "file '{secret}'\n",
    "radio.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "list.pls": "[playlist]\nFile1=http://127.0.0.1:{port}/a.mp3\n",
    "dash.mpd": '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_are_refused_and_never_followed(tmp_path: Path, trap: tuple[socket.socket, int], name: str) -> None:
    secret = wav(tmp_path / "secret.wav", voice(1.0))
    for posing_as in (name, "recording.wav"):
        path = tmp_path / posing_as
        path.write_text(PLAYLISTS[name].format(port=trap[1], secret=secret))
        with pytest.raises(UnsupportedMedia, match="never follows"):
            probe(path)
        with pytest.raises(UnsupportedMedia, match="never follows"):
            load_speech(path, tmp_path)


def refer_elsewhere(path: Path, target: str) -> None:
    """Make the data reference of an MP4 (its moov last) name `target` instead of the file itself."""
    content = path.read_bytes()
    at = content.index(b"dref") - 4
    entry = struct.pack(">I4sI", 12 + len(target) + 1, b"url ", 0) + target.encode() + b"\0"
    dref = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    old_size = struct.unpack(">I", content[at : at + 4])[0]
    grown = bytearray(content[:at] + dref + content[at + old_size :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        where = content.index(parent) - 4
        size = struct.unpack(">I", content[where : where + 4])[0] + len(dref) - old_size
        grown[where : where + 4] = struct.pack(">I", size)
    path.write_bytes(grown)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://127.0.0.1:{port}/a.m4a", "secret.m4a"])
def test_an_mp4_whose_sound_lies_elsewhere_is_refused(
    tmp_path: Path, trap: tuple[socket.socket, int], target: str
) -> None:
    encode(tmp_path / "secret.m4a", "aac", "mp4", voice(1.0), RATE)
    path = encode(tmp_path / "outside.m4a", "aac", "mp4", voice(1.0), RATE)
    refer_elsewhere(path, target.format(port=trap[1]))
    with path.open("rb") as file:
        assert [box.kind for box in boxes(file, 0, path.stat().st_size)][-1] == b"moov"
    with pytest.raises(UnsupportedMedia, match="another file or at a URL"):
        probe(path)
    # With that check disabled FFmpeg still reads the given file only.
    with path.open("rb") as file, open_av(file, "mov") as opened:
        assert opened.streams.audio[0].codec_context.name == "aac"
        list(opened.demux(audio=0))


def test_decoders_off_the_list_do_not_run(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mka", "wavpack", "matroska", voice(1.0, 48_000, 2), 48_000)
    with pytest.raises(InvalidAudio, match=r"damaged|kind that is not read"):
        probe(path)


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    program = (
        "import re, sys; from pathlib import Path; from lipsync_server.media.sound.speech import *\n"
        "path = Path(sys.argv[1]); probe_audio(path, min_s=0.2, max_s=1800)\n"
        "write_speech(path, path.parent, max_s=1800)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    for codec, container in (("flac", "flac"), ("aac", "mp4")):
        peaks_kib = []
        for seconds in (2, 180):
            path = encode(
                tmp_path / f"{seconds}.{container}", codec, container, np.zeros((seconds * RATE, 1), "f4"), RATE
            )
            done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
            peaks_kib.append(int(done.stdout))
        assert peaks_kib[1] - peaks_kib[0] < 4096  # the whole clip would be 11 MiB


def test_a_picture_in_place_of_a_recording_is_named(tmp_path: Path) -> None:
    """HEIC and AVIF begin as an MP4 does."""
    for brand, kind in ((b"heic", "HEIC"), (b"avif", "AVIF"), (b"crx ", "CR3")):
        path = tmp_path / "recording.wav"
        path.write_bytes(struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, brand) + b"\0\0\0\x10mdat" + bytes(8))
        with pytest.raises(UnsupportedMedia, match=f"a {kind} picture.*swapped"):
            probe_audio(path, min_s=0.2, max_s=10)

"""Nothing of a recording is lost without a warning: joined files, damaged packets, other tracks, opposite phases."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from lipsync_server.errors import InvalidAudio
from lipsync_server.media.sound.speech import probe_audio
from sounds import CODED, RATE, encode, load_speech, probe, voice, wav, with_data_size


@pytest.mark.parametrize(
    "kind", ["wav", "flac", "opus", "ogg", "m4a", "mov", "alac", "webm", "mka", "mp3", "aac", "amr"]
)
def test_all_of_a_recording_that_was_joined_from_files_is_heard(tmp_path: Path, kind: str) -> None:
    _, codec, container, rate, slack_s = next(row for row in CODED if row[0] == kind)
    first = encode(tmp_path / "a", codec, container, voice(1.2, rate), rate)
    second = encode(tmp_path / "b", codec, container, voice(0.8, rate), rate)
    path = tmp_path / "joined"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert probe(path) == pytest.approx(2.0, abs=2 * slack_s + 0.06)
    speech, _ = load_speech(path, tmp_path)
    later = speech[round(1.35 * RATE) : round(1.85 * RATE)]
    assert np.sqrt(np.mean(later**2)) > 0.1


@pytest.mark.parametrize(("container", "codec"), [("ogg", "libopus"), ("ogg", "flac"), ("wav", "pcm_s16le")])
def test_joined_files_may_differ_in_rate_and_channels(tmp_path: Path, container: str, codec: str) -> None:
    rates = (48_000, 48_000) if codec == "libopus" else (44_100, 16_000)
    first = encode(tmp_path / "a", codec, container, voice(1.0, rates[0], 2), rates[0])
    second = encode(tmp_path / "b", codec, container, voice(1.0, rates[1], 1), rates[1])
    path = tmp_path / "joined"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    info = probe_audio(path, min_s=0.2, max_s=10)
    assert info.duration_s == pytest.approx(2.0, abs=0.01)
    assert info.channels == 2
    assert "2 files joined" in info.warnings[0]
    speech, _ = load_speech(path, tmp_path)
    wanted = voice(1.0)[:, 0]
    assert max(np.correlate(speech[RATE - 400 :], wanted[2000:12_000], "valid")) > 0.9 * np.sum(
        wanted[2000:12_000] ** 2
    )


def in_format(path: Path, kind: str) -> bytes:
    """A second of speech in the format `kind`."""
    if kind in ("aiff", "au", "caf"):
        soundfile.write(path, voice(1.0), RATE, format=kind.upper())
        return path.read_bytes()
    _, codec, container, rate, _ = next(row for row in CODED if row[0] == kind)
    return encode(path, codec, container, voice(1.0, rate), rate).read_bytes()


@pytest.mark.parametrize("second", ["wav", "flac", "ogg", "m4a", "caf", "webm"])
@pytest.mark.parametrize("first", ["wav", "aiff", "au", "caf", "flac", "opus", "ogg", "webm", "mka"])
def test_sound_in_another_format_behind_a_recording_is_not_left_out_without_a_warning(
    tmp_path: Path, first: str, second: str
) -> None:
    alone = in_format(tmp_path / "a", first)
    path = tmp_path / "joined"
    path.write_bytes(alone)
    assert probe_audio(path, min_s=0.2, max_s=10).warnings == ()
    path.write_bytes(alone + in_format(tmp_path / "b", second))
    try:
        info = probe_audio(path, min_s=0.2, max_s=10)
    except InvalidAudio:
        return  # refused, which loses nothing in silence
    assert info.duration_s > 1.9 or "left out" in info.warnings[0]


def test_joined_wavs_with_placeholder_lengths_are_all_heard(tmp_path: Path) -> None:
    parts = [with_data_size(wav(tmp_path / f"{n}.wav", voice(0.5)), 0xFFFFFFFF).read_bytes() for n in range(3)]
    path = tmp_path / "joined.wav"
    path.write_bytes(b"".join(parts))
    assert probe(path) == 1.5


def test_a_thousand_files_in_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "joined.wav"
    path.write_bytes(wav(tmp_path / "a.wav", voice(0.01)).read_bytes() * 1001)
    with pytest.raises(InvalidAudio, match="more than 1000 files"):
        probe(path)


def test_sound_behind_the_headers_length_is_not_left_out_without_a_warning(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", voice(2.0))
    with_data_size(path, RATE * 2)
    info = probe_audio(path, min_s=0.2, max_s=10)
    assert info.duration_s == 1.0
    assert "ends the sound after 1.0 s; 32,000 bytes behind it were left out" in info.warnings[0]


def test_tags_behind_the_sound_of_a_wav_are_no_lost_sound(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", voice(1.0))
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 9000) + b"INFO" + bytes(8996))
    assert probe_audio(path, min_s=0.2, max_s=10).warnings == ()


def test_packets_that_cannot_be_decoded_are_warned_about(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.m4a", "aac", "mp4", voice(6.0), RATE)
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 4 + 3000
    content[middle : middle + 150] = b"\xff" * 150
    path.write_bytes(content)
    info = probe_audio(path, min_s=0.2, max_s=10)
    assert info.duration_s == pytest.approx(6.0, abs=0.1)
    assert "packets are damaged; silence stands in their place" in info.warnings[0]


def test_of_several_sound_tracks_the_first_is_used_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w", format="mp4") as out:
        tracks = [out.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        for track in tracks:
            samples = voice(1.0)
            for start in range(0, len(samples), 1024):
                block = np.ascontiguousarray(samples[start : start + 1024].T)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE, start
                out.mux(track.encode(frame))
            out.mux(track.encode(None))
    assert "2 sound tracks; the first one was used" in probe_audio(path, min_s=0.2, max_s=10).warnings[0]


# Channels in opposite phase


@pytest.mark.parametrize("second", [-1.0, -0.8, -1.25])
def test_a_voice_in_opposite_phase_on_two_channels_is_heard(tmp_path: Path, second: float) -> None:
    samples = voice(1.0, 44_100) * 0.7
    path = wav(tmp_path / "a.wav", np.hstack([samples, second * samples]), 44_100, "FLOAT")
    speech, _ = load_speech(path, tmp_path)
    assert np.sqrt(np.mean(speech**2)) > 0.6 * np.sqrt(np.mean(samples**2))


def test_a_voice_that_is_inverted_in_one_half_only_is_heard_throughout(tmp_path: Path) -> None:
    samples = voice(2.0)
    other = samples.copy()
    other[RATE:] *= -1
    speech, _ = load_speech(wav(tmp_path / "a.wav", np.hstack([samples, other])), tmp_path)
    halves = [np.sqrt(np.mean(part**2)) for part in (speech[:RATE], speech[RATE:])]
    assert min(halves) > 0.5 * max(halves)


def test_two_people_on_two_channels_are_both_heard(tmp_path: Path) -> None:
    left, right = voice(1.0), voice(1.0)[::-1]
    speech, _ = load_speech(wav(tmp_path / "a.wav", np.hstack([left, right])), tmp_path)
    assert np.allclose(speech, (left + right)[:, 0] / 2, atol=1e-3)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36, 0])
def test_a_streamed_wav_that_could_not_know_its_length_is_read(tmp_path: Path, size: int) -> None:
    assert probe(with_data_size(wav(tmp_path / "a.wav", voice(1.0)), size)) == 1.0

"""Recordings whose header is wrong or behind other bytes are heard whole, or with a warning, or are refused."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lipsync_server.errors import InvalidAudio, UnsupportedMedia
from lipsync_server.media.sound.speech import probe_audio
from sounds import RATE, encode, load_speech, probe, voice

ID3 = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)
STRAY = {"zeros": bytes(40), "a blank line": b"\r\n", "a byte order mark": b"\xef\xbb\xbf", "a tag": ID3}


def stored(kind: str, seconds: float = 1.0, subtype: str = "PCM_16", endian: str = "FILE") -> bytes:
    """A recording of `seconds`, written by libsndfile."""
    file = io.BytesIO()
    subtype = {"OGG": "VORBIS"}.get(kind, subtype)
    soundfile.write(file, voice(seconds), RATE, format=kind, subtype=subtype, endian=endian)
    return file.getvalue()


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "recording"
    path.write_bytes(data)
    return path


def with_lengths(data: bytes, lengths: dict[str, tuple[int, bytes]]) -> bytes:
    """`data` with bytes replaced: name of a chunk -> distance behind the name, and the new bytes."""
    patched = bytearray(data)
    for name, (distance, new) in lengths.items():
        at = data.index(name.encode()) + distance
        patched[at : at + len(new)] = new
    return bytes(patched)


@pytest.mark.parametrize("length", [bytes(8), b"\xff" * 8, struct.pack("<Q", 1 << 62)])
def test_an_rf64_whose_writer_did_not_know_the_length_is_heard_to_its_end(tmp_path: Path, length: bytes) -> None:
    path = saved(tmp_path, with_lengths(stored("RF64"), {"ds64": (16, length)}))
    assert probe(path) == pytest.approx(1.0, abs=0.01)
    speech, _ = load_speech(path, tmp_path)
    assert np.abs(speech - voice(1.0)[: len(speech), 0]).max() < 0.01


@pytest.mark.parametrize(("kind", "endian"), [("RF64", "FILE"), ("WAV", "BIG")])
def test_every_form_of_wav_may_be_joined(tmp_path: Path, kind: str, endian: str) -> None:
    info = probe_audio(saved(tmp_path, stored(kind, endian=endian) * 3), min_s=0.2, max_s=10)
    assert info.duration_s == pytest.approx(3.0, abs=0.01)
    assert "3 files joined" in info.warnings[0]


def test_a_second_chunk_of_sound_in_a_wav_is_reported(tmp_path: Path) -> None:
    whole = stored("WAV", 2.0)
    at, half = whole.index(b"data") + 8, RATE * 2
    size = struct.pack("<I", half)
    two_chunks = whole[: at - 4] + size + whole[at : at + half] + b"data" + size + whole[at + half :]
    [warning] = probe_audio(saved(tmp_path, two_chunks), min_s=0.2, max_s=10).warnings
    assert f"{half:,} bytes behind it were left out" in warning


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "AU", "CAF"])
def test_stray_bytes_before_a_recording_are_left_out(tmp_path: Path, kind: str, stray: str) -> None:
    one = STRAY[stray] + stored(kind)
    assert probe(saved(tmp_path, one)) == pytest.approx(1.0, abs=0.01)
    assert probe(saved(tmp_path, one + one)) == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("stray", STRAY)
def test_stray_bytes_before_an_mp3_are_left_out(tmp_path: Path, stray: str) -> None:
    one = encode(tmp_path / "one", "libmp3lame", "mp3", voice(1.0), RATE).read_bytes()
    assert probe(saved(tmp_path, STRAY[stray] + one)) == pytest.approx(1.0, abs=0.08)


def test_a_chain_of_ogg_continues_behind_bytes_that_are_no_page(tmp_path: Path) -> None:
    assert probe(saved(tmp_path, stored("OGG") + bytes(77) + stored("OGG"))) == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF"])
def test_a_recording_that_was_cut_off_is_refused_and_never_shortened_in_silence(tmp_path: Path, kind: str) -> None:
    whole = stored(kind, 2.0)
    with pytest.raises(InvalidAudio, match=r"promises 2\.0 s of sound, but only 1\.\d s are in the file"):
        probe(saved(tmp_path, whole[: len(whole) * 6 // 10]))


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        ("AIFF", {"SSND": (4, b"\xff" * 4), "COMM": (10, b"\xff" * 4)}),
        ("AIFF", {"SSND": (4, b"\x7f\xff\xff\xdb"), "COMM": (10, b"\x3f\xff\xff\xff")}),
        ("AIFF", {"SSND": (4, bytes(4)), "COMM": (10, bytes(4))}),
        ("CAF", {"data": (4, b"\xff" * 8)}),
        ("AU", {".snd": (8, b"\xff" * 4)}),
        ("AU", {".snd": (8, bytes(4))}),
    ],
)
def test_a_placeholder_for_the_length_means_all_of_the_sound(
    tmp_path: Path, kind: str, lengths: dict[str, tuple[int, bytes]]
) -> None:
    assert probe(saved(tmp_path, with_lengths(stored(kind), lengths))) == pytest.approx(1.0, abs=0.01)


def test_a_flac_or_mp3_with_a_placeholder_for_the_length_is_heard_to_its_end(tmp_path: Path) -> None:
    flac = bytearray(stored("FLAC"))
    flac[21] |= 0x0F
    flac[22:26] = b"\xff" * 4
    assert probe(saved(tmp_path, bytes(flac))) == pytest.approx(1.0, abs=0.01)
    mp3 = encode(tmp_path / "one", "libmp3lame", "mp3", voice(1.0), RATE).read_bytes()
    assert probe(saved(tmp_path, with_lengths(mp3, {"Info": (12, b"\xff" * 4)}))) == pytest.approx(1.0, abs=0.08)


def test_a_header_without_sound_is_called_that(tmp_path: Path) -> None:
    whole = stored("WAV")
    with pytest.raises(InvalidAudio, match="holds no sound at all"):
        probe(saved(tmp_path, with_lengths(whole[: whole.index(b"data") + 8], {"data": (4, bytes(4))})))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"wvpk" + bytes(60), "a WavPack recording"),
        (b"riff\x2e\x91\xcf\x11" + bytes(60), "a Wave64 recording"),
        (b"\x0b\x77" + bytes(60), "an AC-3 recording"),
        ((b"G" + b"\x40\x11\x10" + bytes(184)) * 4, "an MPEG transport stream"),
    ],
)
def test_other_kinds_of_recordings_are_named_with_what_to_export(tmp_path: Path, head: bytes, name: str) -> None:
    with pytest.raises(UnsupportedMedia, match=f"the file is {name}: export it as") as refused:
        probe(saved(tmp_path, head))
    assert "raw PCM" not in str(refused.value)


def test_a_text_that_begins_like_a_recording_is_called_text(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia, match='plain text that begins with "MAC address'):
        probe(saved(tmp_path, b"MAC address of the recorder"))

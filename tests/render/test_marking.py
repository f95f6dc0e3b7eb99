"""A finished video is marked as generated in machine-readable form, unless the owner turns the marking off."""

import json
import stat
from contextlib import closing
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
import soundfile
from lipsync_server import Lipsync
from lipsync_server.media.info import Mark
from lipsync_server.media.mp4.certificate import identity_in, read_identity
from lipsync_server.media.mp4.marking import SOURCE_TYPE, XMP_BOX, mark_video
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import MarkVideo
from lipsync_server.paths import SAMPLES_DIR
from material import small_portrait


def boxes(path: Path) -> list[tuple[bytes, int]]:
    """Type and length of the file's outer boxes, in order."""
    found, data, at = [], path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], size))
        at += size
    assert at == len(data)
    return found


def small_video(path: Path, n_frames: int = 5) -> Path:
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for shade in range(n_frames):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * shade % 255, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path


def frames_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray().tobytes() for frame in file.decode(video=0)]


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    video = small_video(tmp_path / "video.mp4")
    mark_video(video, Mark("preview", identity_in(tmp_path / "signing")))
    return video


def test_the_public_reader_calls_a_marked_video_valid_and_generated(marked: Path) -> None:
    with c2pa.Reader(str(marked)) as reader:
        assert reader.get_validation_state() == "Valid"
        manifest = json.loads(reader.json())
    active = manifest["manifests"][manifest["active_manifest"]]
    [actions] = [a["data"]["actions"] for a in active["assertions"] if a["label"].startswith("c2pa.actions")]
    assert actions[0]["digitalSourceType"] == SOURCE_TYPE
    assert "preview" in json.dumps(actions[0]["softwareAgent"])
    codes = {status["code"] for status in manifest.get("validation_status", [])}
    assert codes <= {"signingCredential.untrusted"}


def test_metadata_readers_find_the_source_type_without_c2pa(marked: Path) -> None:
    data = marked.read_bytes()
    packet = data[data.index(XMP_BOX) + 16 :]
    assert SOURCE_TYPE.encode() in packet
    assert b"DigitalSourceType" in packet


def test_marking_keeps_every_frame_and_moov_before_mdat(tmp_path: Path) -> None:
    video = small_video(tmp_path / "video.mp4")
    before = frames_of(video)
    mark_video(video, Mark("preview", identity_in(tmp_path)))
    assert frames_of(video) == before
    order = [kind for kind, _ in boxes(video)]
    assert order.index(b"moov") < order.index(b"mdat")


def test_a_change_of_the_picture_breaks_the_seal(marked: Path) -> None:
    data = bytearray(marked.read_bytes())
    data[data.index(b"mdat") + 40] ^= 0xFF
    changed = marked.with_name("changed.mp4")
    changed.write_bytes(data)
    with c2pa.Reader(str(changed)) as reader:
        assert reader.get_validation_state() == "Invalid"


def test_the_key_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    first = identity_in(tmp_path / "signing")
    content = first.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert identity_in(tmp_path / "signing").read_bytes() == content
    assert read_identity(first).algorithm == "es256"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half second of the shipped recording. A portrait is beside it."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, *soundfile.read(SAMPLES_DIR / "speech.wav", frames=24_000))
    small_portrait(path.parent)
    return path


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_signing_file_that_cannot_sign_costs_the_mark_and_never_the_video(
    speech: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "owner.pem").write_bytes(content)
    video = tmp_path / "video.mp4"
    with Lipsync("preview", signing_file=tmp_path / "owner.pem") as engine:
        outcome = engine.render(speech.with_name("portrait.png"), speech, video)
    assert [warning for warning in outcome.warnings if "could not be marked" in warning]
    assert outcome.size_bytes == video.stat().st_size
    assert len(frames_of(video)) == outcome.n_frames
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owner.pem", "video.mp4"]


@pytest.mark.parametrize("mark", [True, False])
def test_a_rendered_video_is_marked_unless_the_owner_switches_it_off(
    mark: bool, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    video = tmp_path / "video.mp4"
    with Lipsync("preview", mark=mark, data_dir=tmp_path / "none") as engine:
        outcome = engine.render(speech.with_name("portrait.png"), speech, video)
    assert outcome.size_bytes == video.stat().st_size
    assert (XMP_BOX in video.read_bytes()) is mark
    assert (c2pa.Reader.try_create(str(video)) is not None) is mark
    assert (tmp_path / "config" / "lipsync" / "signing.pem").exists() is mark


def test_a_large_video_is_marked_within_the_limits_of_its_process(tmp_path: Path) -> None:
    """The signing library reads up to half a gigabyte at once."""
    large = small_video(tmp_path / "large.mp4")
    n_bytes = 400_000_008
    with large.open("ab") as file:
        file.write(n_bytes.to_bytes(4) + b"free")
        file.truncate(file.tell() + n_bytes - 8)
    with closing(DecoderPool(n_warm=0)) as decoders:
        info = decoders.run(MarkVideo(large, Mark("preview", identity_in(tmp_path))))
    assert info.size_bytes == large.stat().st_size > n_bytes
    with c2pa.Reader(str(large)) as reader:
        assert reader.get_validation_state() == "Valid"

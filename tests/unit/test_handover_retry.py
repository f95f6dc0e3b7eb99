"""A copy that fails is tried again; one that never succeeds is given up with a sentence; names are safe and unique."""

import resource
from pathlib import Path

import pytest
from lipsync_server.errors import LipsyncError, StoreFailed
from lipsync_server.jobs.delivery.handover import BucketTarget, FolderTarget, HandOver, copy_name, make_target
from lipsync_server.jobs.model import Job, JobSpec
from lipsync_server.settings import Settings


def job(file_name: str = "face-lipsync.mp4") -> Job:
    return Job("0" * 26, JobSpec("auto", "face.png", "voice.wav", file_name, 1.0), "running", 0.0)


async def test_a_copy_is_tried_again_until_the_folder_is_there(tmp_path: Path) -> None:
    video, folder = tmp_path / "video.mp4", tmp_path / "away"
    video.write_bytes(b"mp4")

    class Mounted(FolderTarget):
        async def put(self, video: Path, name: str) -> str:
            try:
                return await super().put(video, name)
            finally:
                folder.mkdir(exist_ok=True)

    stored = await HandOver(Mounted(folder), give_up_s=60, pauses_s=(0.0,))(job(), video)
    (copy,) = folder.iterdir()
    assert (str(copy), copy.read_bytes()) == (stored, b"mp4")


async def test_a_copy_that_never_succeeds_is_given_up_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"mp4")
    hand_over = HandOver(FolderTarget(tmp_path / "away"), give_up_s=0.0, pauses_s=(0.1,))
    with pytest.raises(StoreFailed, match=r"LIPSYNC_STORE in 1 tries.*No such file"):
        await hand_over(job(), tmp_path / "video.mp4")


async def test_a_copy_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    """The system refuses to write more than a part of the video, as a disk that is full."""
    video, folder = tmp_path / "video.mp4", tmp_path / "store"
    video.write_bytes(bytes(1 << 20))
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
    try:
        with pytest.raises(StoreFailed):
            await HandOver(FolderTarget(folder), give_up_s=0.0, pauses_s=(0.1,))(job(), video)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.iterdir())


async def test_a_video_that_was_removed_by_hand_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="somebody removed it by hand"):
        await HandOver(FolderTarget(tmp_path), give_up_s=3600)(job(), tmp_path / "video.mp4")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("Anna spricht.mp4", "Anna-spricht"), ("../../etc/passwd", "passwd"), ("日本.mp4", "lipsync"), (".mp4", "mp4")],
)
def test_a_callers_name_cannot_point_outside_the_folder(name: str, stem: str) -> None:
    assert copy_name(job(name)) == f"{stem}-{'0' * 26}.mp4"


@pytest.mark.parametrize("store", ["s3://", "gs://bucket/x", "s3:///x"])
def test_a_store_of_an_unknown_kind_is_refused(store: str) -> None:
    with pytest.raises(LipsyncError, match="must be a folder or s3://"):
        make_target(Settings(_env_file=None, store=store))


def test_a_store_is_a_folder_or_a_bucket(tmp_path: Path) -> None:
    assert make_target(Settings(_env_file=None)) is None
    assert isinstance(make_target(Settings(_env_file=None, store=str(tmp_path))), FolderTarget)
    assert isinstance(make_target(Settings(_env_file=None, store="s3://bucket")), BucketTarget)

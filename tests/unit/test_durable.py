"""durable.py: a file is whole or absent, and a file system that cannot sync folders is accepted."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest
from lipsync_server.durable import publish, sync_folder, write_file


def test_a_file_is_written_whole_with_its_mode_and_leaves_no_part(tmp_path: Path) -> None:
    write_file(tmp_path / "secret", lambda file: file.write(b"abc"), mode=0o600)
    assert (tmp_path / "secret").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"new, but not all of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "file", fail)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_part_left_by_a_killed_process_does_not_stop_the_next_write(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"torn")
    write_file(tmp_path / "file", lambda file: file.write(b"whole"))
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_file_system_that_cannot_sync_folders_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    sync_folder(tmp_path)
    (tmp_path / "part").write_bytes(b"video")
    publish(tmp_path / "part", tmp_path / "video.mp4")
    assert (tmp_path / "video.mp4").read_bytes() == b"video"

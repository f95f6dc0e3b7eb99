"""Files of jobs: files without a use are deleted, and a full disk is reported."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hand_clock import HandClock
from lipsync_server.errors import DiskFull, LipsyncError
from lipsync_server.jobs.database.connection import open_database
from lipsync_server.jobs.database.store import Ending, Store
from lipsync_server.jobs.files import JobFiles, disk_errors, kept_secret
from lipsync_server.jobs.keeping.retention import RECORD_TTL_S, expire, sweep_leftovers
from lipsync_server.jobs.lock import lock_data_dir
from lipsync_server.jobs.model import IdMaker, Job, JobSpec
from lipsync_server.workers.task import RenderOutcome

SPEC = JobSpec(engine="auto", image_name="a.png", audio_name="a.wav", file_name="a.mp4", duration_s=2.0)
OUTCOME = RenderOutcome(64, 64, 25.0, 50, 2.0, 1000, "00", 42, 3.0, {})
ENGINES = {"auto": "preview"}


def fill(files: JobFiles, job_id: str) -> None:
    incoming = files.new_incoming()
    for name in ("image", "audio"):
        (incoming / name).write_bytes(b"input")
    files.adopt(incoming, job_id)
    (files.scratch(job_id) / "segment").write_bytes(b"frames")
    files.video(job_id).write_bytes(b"video")


async def test_a_start_deletes_the_leftovers_of_a_crash_and_nothing_else(files: JobFiles, tmp_path: Path) -> None:
    database = await open_database(tmp_path / "lipsync.db")
    keeping = HandClock()
    store, new_id = Store(database, callback_body=lambda job: b"", keeping=keeping), IdMaker()
    ids = {name: new_id() for name in ("succeeded", "failed", "running", "expired", "queued", "unknown")}
    for name, job_id in ids.items():
        fill(files, job_id)
        if name == "unknown":
            files.video(job_id).unlink()
            continue
        await store.add(Job(job_id, replace(SPEC), "queued", 1.0), max_open=99, key=None)
        if name == "queued":
            continue
        await store.take(ENGINES, 1.0)
        if name in ("succeeded", "expired"):
            await store.succeed(job_id, OUTCOME, now=2.0, keep_s=7.0, ending=Ending())
        if name == "failed":
            await store.cancel(job_id, now=2.0, ending=Ending())
        if name == "expired":
            await store.purge(job_id, 10.0)
    (files.new_incoming() / "image").write_bytes(b"half an upl")

    await sweep_leftovers(store, files, keep_s=7.0)
    assert set(files.job_ids()) == {ids["succeeded"], ids["running"], ids["queued"]}
    assert list(files.folder(ids["succeeded"]).iterdir()) == [files.video(ids["succeeded"])]
    assert {path.name for path in files.folder(ids["running"]).iterdir()} == {"image", "audio", "scratch", "video.mp4"}
    assert list((files.data_dir / "incoming").iterdir()) == []

    keeping.seconds = 6.9
    assert await expire(store, files, 9.0) == 0
    keeping.seconds = 7.0
    assert await expire(store, files, 9.0) == 1
    assert set(files.job_ids()) == {ids["running"], ids["queued"]}
    assert (await store.get(ids["succeeded"])).purged_at == 9.0
    keeping.seconds = 8.0 + RECORD_TTL_S
    await expire(store, files, 10.0)
    assert {job.id for job in await store.page(state=None, limit=99, after=None)} == {ids["running"], ids["queued"]}
    await database.close()


def test_a_device_without_space_raises_disk_full() -> None:
    with pytest.raises(DiskFull, match="filled up"), disk_errors(), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_the_reserve_is_kept_free(files: JobFiles) -> None:
    files.check_space(0)
    with pytest.raises(DiskFull):
        files.check_space(1 << 62)


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    assert kept_secret(path, lambda: "first") == ("first", True)
    assert kept_secret(path, lambda: "second") == ("first", False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["token"]


async def test_a_data_folder_has_one_server(tmp_path: Path) -> None:
    async with lock_data_dir(tmp_path):
        with pytest.raises(LipsyncError, match="Another server"):
            async with lock_data_dir(tmp_path):
                pass
    async with lock_data_dir(tmp_path):
        pass

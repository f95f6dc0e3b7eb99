"""A finished video is removed by its own keeping time or by a person, and by nothing else."""

import asyncio
import resource
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hand_clock import HandClock
from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.database.connection import Database, open_database
from lipsync_server.jobs.database.schema import STEPS
from lipsync_server.jobs.database.store import Ending, Store
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.keeping.keeping_clock import KeepingClock, open_keeping_clock
from lipsync_server.jobs.keeping.retention import RECORD_TTL_S, Retention, expire, sweep_leftovers
from lipsync_server.jobs.model import IdMaker, Job, JobSpec
from lipsync_server.workers.task import RenderOutcome
from site_kit import write_mp4

SPEC = JobSpec(engine="auto", image_name="a.png", audio_name="a.wav", file_name="a.mp4", duration_s=2.0)
OUTCOME = RenderOutcome(64, 64, 25.0, 50, 2.0, 1000, "00", 42, 3.0, {})
DAY_S = 86400.0
new_id = IdMaker()


async def finished(store: Store, files: JobFiles, *, keep_s: float = DAY_S) -> str:
    job_id = new_id()
    files.folder(job_id).mkdir()
    write_mp4(files.video(job_id))
    await store.add(Job(job_id, SPEC, "queued", 1.0), max_open=99, key=None)
    await store.take({"auto": "preview"}, 1.0)
    await store.succeed(job_id, OUTCOME, now=2.0, keep_s=keep_s, ending=Ending())
    return job_id


def store_of(database: Database, keeping: HandClock) -> Store:
    return Store(database, callback_body=lambda job: b"", keeping=keeping)


@pytest.mark.parametrize("what", ["fresh", "empty file", "emptied table"])
async def test_a_lost_database_deletes_no_finished_video(files: JobFiles, what: str) -> None:
    path = files.data_dir / "lipsync.db"
    database = await open_database(path)
    ids = [await finished(store_of(database, HandClock()), files) for _ in range(2)]
    if what == "emptied table":
        async with database.transaction() as db:
            await db.execute("DELETE FROM jobs")
    await database.close()
    if what == "fresh":
        for lost in files.data_dir.glob("lipsync.db*"):
            lost.unlink()
    if what == "empty file":
        path.write_bytes(b"")
    database = await open_database(path)
    keeping = HandClock()
    store = store_of(database, keeping)
    await sweep_leftovers(store, files, keep_s=10.0)
    for job_id in ids:
        job = await store.get(job_id)
        assert job.outcome is not None
        assert (job.state, job.has_video, job.outcome.n_frames) == ("succeeded", True, 10)
        assert files.has_video(job_id, job.outcome.size_bytes)
    keeping.seconds = 9.0
    assert await expire(store, files, 1.0) == 0
    keeping.seconds = 10.0
    assert await expire(store, files, 1.0) == 2, "then their own time is over"
    assert list(files.job_ids()) == []
    await database.close()


async def test_a_video_whose_record_is_spoilt_gets_a_new_one(files: JobFiles) -> None:
    database = await open_database(files.data_dir / "lipsync.db")
    store = store_of(database, HandClock())
    job_id = await finished(store, files)
    async with database.transaction() as db:
        await db.execute("UPDATE jobs SET outcome = '{', spec = ''")
    await sweep_leftovers(store, files, keep_s=10.0)
    assert (await store.get(job_id)).has_video
    await database.close()


async def test_a_video_that_cannot_be_read_stays_where_it_is(files: JobFiles) -> None:
    database = await open_database(files.data_dir / "lipsync.db")
    job_id = new_id()
    files.folder(job_id).mkdir()
    files.video(job_id).write_bytes(b"no MP4")
    await sweep_leftovers(store_of(database, HandClock()), files, keep_s=10.0)
    assert files.video(job_id).read_bytes() == b"no MP4"
    await database.close()


async def test_a_wall_clock_that_jumps_expires_nothing_and_forgets_nothing(
    files: JobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = HandClock(2.0)
    monkeypatch.setattr(time, "time", wall)  # the machine's clock, for every module
    database = await open_database(files.data_dir / "lipsync.db")
    keeping = await open_keeping_clock(database)
    store = Store(database, callback_body=lambda job: b"", keeping=keeping)
    job_id = await finished(store, files)
    failed = new_id()
    await store.add(Job(failed, SPEC, "queued", 1.0), max_open=99, key=None)
    await store.cancel(failed, now=2.0, ending=Ending())
    retention = Retention(store, files, grace_s=3600.0, keeping=keeping, clock=wall)
    for jump_s in (2 * DAY_S, 400 * DAY_S, -2 * DAY_S):
        wall.seconds = jump_s
        looking = asyncio.create_task(retention.run())
        for _ in range(50):
            await asyncio.sleep(0.002)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert files.video(job_id).exists()
        assert (await store.get(job_id)).has_video
        assert (await store.get(failed)).state == "cancelled"
    assert 2 * DAY_S < RECORD_TTL_S
    await database.close()


async def test_the_keeping_clock_continues_over_restarts_and_stops_while_the_machine_is_off(
    tmp_path: Path,
) -> None:
    database = await open_database(tmp_path / "lipsync.db")
    clock = await open_keeping_clock(database)
    async with database.transaction() as db:
        await db.execute("UPDATE keeping_clock SET seconds = 5000, since_boot_s = since_boot_s - 100")
    assert 5100 <= (await open_keeping_clock(database))() < 5200, "the same boot: time without the server counts"
    async with database.transaction() as db:
        await db.execute("UPDATE keeping_clock SET seconds = 7000, boot_id = 'another', since_boot_s = 1")
    assert 7000 <= (await open_keeping_clock(database))() < 7100
    first = clock()
    assert isinstance(clock, KeepingClock) and clock() >= first
    await database.close()


async def test_videos_of_an_older_server_are_kept_for_their_whole_time_again(tmp_path: Path) -> None:
    path = tmp_path / "lipsync.db"
    job_id = new_id()
    with sqlite3.connect(path) as old:
        old.executescript(f"{STEPS[0]}; PRAGMA user_version = 1;")
        old.execute(
            "INSERT INTO jobs (id, state, wanted_engine, duration_s, spec, created_at, finished_at, expires_at)"
            " VALUES (?, 'succeeded', 'auto', 2, '{}', 100, 200, 5200)",
            (job_id,),
        )
    database = await open_database(path)
    keeping = HandClock()
    store = store_of(database, keeping)
    assert await store.next_expiry_in_s() == 5000
    await database.close()


class SmallDisk(JobFiles):
    """A disk that has no room for another page of the database until a job's files are removed."""

    def fill(self) -> None:
        """From now on SQLite's writes really fail: no file of this process may grow beyond the write-ahead log."""
        log_bytes = (self.data_dir / "lipsync.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (log_bytes, resource.RLIM_INFINITY))

    def remove(self, job_id: str) -> None:
        super().remove(job_id)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def test_on_a_full_disk_videos_can_be_deleted_and_expire(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = SmallDisk(tmp_path / "data", min_free_bytes=0)
    files.prepare()
    database = await open_database(files.data_dir / "lipsync.db")
    keeping = HandClock()
    store = store_of(database, keeping)
    deleted, expiring = await finished(store, files), await finished(store, files, keep_s=5.0)
    retention = Retention(store, files, grace_s=1.0, keeping=KeepingClock(database, 0.0), clock=HandClock(9.0))
    try:
        files.fill()
        await retention.delete(deleted)
        assert not files.video(deleted).exists()
        assert (await store.get(deleted)).deleted
        keeping.seconds = 6.0
        files.fill()
        assert await expire(store, files, 9.0) == 1
        assert not files.video(expiring).exists()
        assert (await store.get(expiring)).purged_at == 9.0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert caplog.text.count("files are removed first") == 2
    await database.close()


async def test_a_download_from_a_full_disk_collects_the_video_once_there_is_room(tmp_path: Path) -> None:
    files = SmallDisk(tmp_path / "data", min_free_bytes=0)
    files.prepare()
    database = await open_database(files.data_dir / "lipsync.db")
    store = store_of(database, HandClock())
    fetched, other = await finished(store, files), await finished(store, files)
    retention = Retention(store, files, grace_s=60.0, keeping=KeepingClock(database, 0.0), clock=HandClock(9.0))
    try:
        files.fill()
        await retention.downloaded(fetched)
        assert (await store.get(fetched)).collected_at is None
        files.remove(other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    running = asyncio.create_task(retention.run())
    for _ in range(500):
        if (await store.get(fetched)).collected_at is not None:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await store.get(fetched)).collected_at == 9.0
    await database.close()


@pytest.mark.parametrize("content", [b"junk" * 10_000, bytes(40_000), None])
async def test_a_spoilt_database_is_refused_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lipsync.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(LipsyncError, match="finished videos are kept"):
        await open_database(path)
    workers = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
    for thread in workers:  # a closed connection's thread ends a moment after the answer
        await asyncio.to_thread(thread.join, 30)
    assert not [thread for thread in workers if thread.is_alive()]

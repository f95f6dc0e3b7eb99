"""The store: ids, transactions, the schema; real SQLite files."""

import asyncio
import itertools
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.engines.ask import Ask
from lipsync_server.errors import Conflict, LipsyncError, NotFound, QueueFull
from lipsync_server.jobs.database.connection import Database, open_database
from lipsync_server.jobs.database.schema import STEPS
from lipsync_server.jobs.database.store import Ending, Idempotency, Store
from lipsync_server.jobs.model import Failure, IdMaker, Job, JobSpec, is_job_id
from lipsync_server.jobs.running.forecast import Speeds
from lipsync_server.workers.task import RenderOutcome

SPEC = JobSpec(engine="auto", image_name="a.png", audio_name="a.wav", file_name="a.mp4", duration_s=2.0)
OUTCOME = RenderOutcome(64, 64, 25.0, 50, 2.0, 1000, "00", 42, 3.0, {"generate": 3.0}, ("a warning",))
ENGINES = {"auto": "preview", "preview": "preview"}


@pytest.fixture
def keeping() -> HandClock:
    return HandClock()


@pytest.fixture
def store(database: Database, keeping: HandClock) -> Store:
    return Store(database, callback_body=lambda job: f"{job.id} {job.state}".encode(), keeping=keeping)


new_id = IdMaker()


async def add(store: Store, *, max_open: int = 1000, key: Idempotency | None = None, **spec: Any) -> Job:
    job = Job(new_id(), replace(SPEC, **spec), "queued", 1.0)
    await store.add(job, max_open=max_open, key=key)
    return job


@given(st.lists(st.floats(0, 1e11), min_size=2, max_size=30))
def test_ids_rise_and_stay_apart_whatever_the_clock_does(times: list[float]) -> None:
    clock = iter(times)
    make = IdMaker(clock=lambda: next(clock))
    ids = [make() for _ in times]
    assert ids == sorted(set(ids))
    assert all(is_job_id(each) for each in ids)
    later = IdMaker(after=ids[-1], clock=lambda: 0.0)
    assert later() > ids[-1]


@pytest.mark.parametrize("text", ["", "../etc", "0" * 25, "0" * 27, "I" * 26, "0" * 25 + "/", "O" * 26])
def test_only_ids_pass_as_ids(text: str) -> None:
    assert not is_job_id(text)


async def test_a_job_comes_back_as_it_was_written(store: Store) -> None:
    ask = Ask(face_box=(1, 2, 3, 4), options={"steps": 4, "deep": {"x": [1]}}, seed=2**63 - 1)
    job = await add(store, ask=ask)
    assert await store.get(job.id) == job
    taken = await store.take(ENGINES, 5.0)
    assert taken is not None
    assert (taken.state, taken.engine, taken.attempts, taken.started_at) == ("running", "preview", 1, 5.0)
    ending = Ending(worker_s=3.5, stage_s={"generate": 3.0}, price_per_hour=3600.0, currency="EUR")
    done = await store.succeed(job.id, OUTCOME, now=9.0, keep_s=90.0, ending=ending)
    assert await store.get(job.id) == done
    assert done.outcome == OUTCOME
    assert done.cost is not None and done.cost.amount == 3.5


async def test_a_job_is_given_to_one_worker_only(store: Store) -> None:
    jobs = [await add(store) for _ in range(10)]
    taken = await asyncio.gather(*(store.take(ENGINES, 1.0) for _ in range(20)))
    assert [job.id for job in taken if job] == [job.id for job in jobs]


async def test_a_worker_gets_only_jobs_that_it_can_render(store: Store) -> None:
    large, small = await add(store, engine="infinitetalk"), await add(store, engine="preview")
    taken = await store.take(ENGINES, 1.0)
    assert taken is not None
    assert taken.id == small.id
    assert await store.take(ENGINES, 1.0) is None
    taken = await store.take({"infinitetalk": "infinitetalk"}, 1.0)
    assert taken is not None
    assert taken.id == large.id


async def test_the_limit_holds_for_many_at_once(store: Store) -> None:
    results = await asyncio.gather(*(add(store, max_open=5) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(each, Job) for each in results) == 5
    assert all(isinstance(each, Job | QueueFull) for each in results)
    assert await store.n_open() == (5, 0)


async def test_an_idempotency_key_makes_one_job(store: Store) -> None:
    key = Idempotency("me", "key", "print")
    results = await asyncio.gather(*(add(store, key=key) for _ in range(5)), return_exceptions=True)
    (job,) = [each for each in results if isinstance(each, Job)]
    assert sum(isinstance(each, Conflict) for each in results) == 4
    assert await store.find_key("me", "key") == ("print", job.id)
    assert await store.n_open() == (1, 0)


FAILURE = Failure("no_face", "No face", "There is no face.", 422)


async def test_an_ended_job_stays_ended(store: Store) -> None:
    changes = {
        "succeeded": lambda job_id: store.succeed(job_id, OUTCOME, now=2.0, keep_s=7.0, ending=Ending()),
        "failed": lambda job_id: store.fail(job_id, FAILURE, now=2.0, ending=Ending()),
        "cancelled": lambda job_id: store.cancel(job_id, now=2.0, ending=Ending()),
        "queued": lambda job_id: store.requeue(job_id, worker_s=0.0, crashed=False),
    }
    for first, second in itertools.product(("succeeded", "failed", "cancelled"), changes):
        job = await add(store)
        await store.take(ENGINES, 1.0)
        assert (await changes[first](job.id)).state == first
        with pytest.raises(Conflict):
            await changes[second](job.id)
        assert (await store.get(job.id)).state == first


async def test_the_callback_is_due_with_the_end_and_never_before(
    store: Store, database: Database, keeping: HandClock
) -> None:
    """The keeping clock decides. By the wall clock the job ended at 99."""
    keeping.seconds = 7.0
    job = await add(store, callback_url="http://example.com/")
    await store.take(ENGINES, 1.0)
    await store.requeue(job.id, worker_s=1.0, crashed=True)
    assert await database.rows("SELECT * FROM outbox") == []
    await store.fail(job.id, FAILURE, now=99.0, ending=Ending())
    (row,) = await database.rows("SELECT job_id, url, body, next_at FROM outbox")
    assert tuple(row) == (job.id, "http://example.com/", f"{job.id} failed".encode(), 7.0)


async def test_a_change_that_fails_changes_nothing(database: Database) -> None:
    def refuse(job: Job) -> bytes:
        raise RuntimeError("no body")

    store = Store(database, callback_body=refuse, keeping=HandClock())
    job = await add(store, callback_url="http://example.com/")
    with pytest.raises(RuntimeError):
        await store.fail(job.id, FAILURE, now=7.0, ending=Ending())
    assert await store.get(job.id) == job
    await store.take(ENGINES, 1.0)


async def test_a_cancelled_wait_leaves_no_transaction_open(store: Store) -> None:
    for delay in range(12):
        waiting = asyncio.create_task(add(store))
        for _ in range(delay):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await add(store)


async def test_collecting_only_brings_the_expiry_nearer(store: Store, keeping: HandClock) -> None:
    job = await add(store)
    await store.take(ENGINES, 1.0)
    await store.succeed(job.id, OUTCOME, now=2.0, keep_s=98.0, ending=Ending())
    assert (await store.collect(job.id, now=3.0, keep_s=500.0)).expires_at == 100.0
    assert (await store.collect(job.id, now=4.0, keep_s=50.0)).collected_at == 3.0
    keeping.seconds = 97.0
    assert await store.expired() == []
    assert await store.next_expiry_in_s() == 1.0
    keeping.seconds = 98.0
    assert await store.expired() == [job.id]
    await store.purge(job.id, 101.0)
    assert await store.expired() == []


async def test_a_deleted_job_keeps_nothing_of_its_contents(
    store: Store, database: Database, keeping: HandClock
) -> None:
    job = await add(store, ask=Ask(prompt="a secret"), callback_url=None)
    await store.take(ENGINES, 1.0)
    await store.fail(job.id, FAILURE, now=2.0, ending=Ending())
    await store.delete(job.id, 3.0)
    (row,) = await database.rows("SELECT spec FROM jobs")
    assert "secret" not in row["spec"] and "a.png" not in row["spec"]
    assert await store.page(state=None, limit=10, after=None) == []
    assert await store.forget_older_than(10.0) == 0
    keeping.seconds = 11.0
    assert await store.forget_older_than(10.0) == 1
    with pytest.raises(NotFound):
        await store.get(job.id)


async def test_a_job_that_an_older_server_stored_is_read_the_same(store: Store, database: Database) -> None:
    job = await add(store, ask=Ask(prompt="hello", preset="fast", seed=7, options={"steps": 4}))
    old = {"engine": "auto", "image_name": "a.png", "audio_name": "a.wav", "file_name": "a.mp4", "duration_s": 2.0}
    old |= {"prompt": "hello", "second_audio_name": None, "owner": "", "preset": "fast", "resolution": None, "seed": 7}
    old |= {"face_index": None, "face_box": None, "callback_url": None, "options": {"steps": 4}}
    async with database.transaction() as db:
        await db.execute("UPDATE jobs SET spec = ?", (json.dumps(old),))
    assert await store.get(job.id) == job


async def test_polling_a_deep_queue_reads_an_index_only(database: Database) -> None:
    for sql in (
        "SELECT count(*), total(duration_s) FROM jobs WHERE state = 'queued' AND id < 'x'",
        "SELECT state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY 1",
    ):
        (plan,) = [row["detail"] for row in await database.rows(f"EXPLAIN QUERY PLAN {sql}")]
        assert "COVERING INDEX jobs_by_state" in plan


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lipsync.db"
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    with pytest.raises(LipsyncError, match="newer"):
        await open_database(path)


async def test_a_database_opens_again_as_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        database = await open_database(tmp_path / "lipsync.db")
        (row,) = await database.rows("PRAGMA journal_mode")
        assert row[0] == "wal"
        await database.close()


def test_a_forecast_uses_the_jobs_own_pace_once_it_is_known() -> None:
    speeds = Speeds()
    assert speeds.remaining_s("preview", 10.0, elapsed_s=5.0, fraction=0.01) is None
    for speed in (1.0, 2.0, 30.0):
        speeds.learn("preview", speed)
    assert speeds.of("preview") == 2.0
    assert speeds.remaining_s("preview", 10.0, elapsed_s=5.0, fraction=0.01) == 15.0
    assert speeds.remaining_s("preview", 10.0, elapsed_s=5.0, fraction=0.5) == 5.0
    assert speeds.remaining_s("preview", 1.0, elapsed_s=5.0, fraction=0.05) == 0.0

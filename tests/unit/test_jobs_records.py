"""A record that cannot be read ends its own job and harms no other; a record that could not be read is not stored."""

import asyncio
import math
from dataclasses import replace

import pytest
from hand_clock import HandClock
from lipsync_server.engines.ask import Ask
from lipsync_server.errors import Conflict, InvalidInput
from lipsync_server.jobs.database.connection import Database
from lipsync_server.jobs.database.records import UnreadableRecord
from lipsync_server.jobs.database.store import Ending, Store
from lipsync_server.jobs.delivery.callbacks import Outbox
from lipsync_server.jobs.model import IdMaker, Job, JobSpec
from lipsync_server.workers.task import RenderOutcome

SPEC = JobSpec(engine="auto", image_name="a.png", audio_name="a.wav", file_name="a.mp4", duration_s=2.0, owner="alice")
OUTCOME = RenderOutcome(64, 64, 25.0, 50, 2.0, 1000, "00", 42, 3.0, {})
ENGINES = {"auto": "preview"}
SPOILS = {
    "spec is no JSON": ("spec", "{"),
    "spec is JSON of another kind": ("spec", "[1]"),
    "spec lacks fields": ("spec", '{"owner": "alice"}'),
    "spec has null for numbers": ("spec", '{"engine": "auto", "ask": {"face_box": [null, 0, 10, 10]}}'),
    "spec is nested very deeply": ("spec", "[" * 100_000),
    "spec is not text": ("spec", b"\xff\x00"),
    "a time is a word": ("created_at", "yesterday"),
    "a count is a word": ("attempts", "many"),
    "a fraction is infinite": ("fraction", math.inf),
    "the stages are null": ("stage_s", "null"),
    "the machines are no list": ("failed_on", "7"),
    "an outcome is half": ("outcome", '{"width": 64}'),
}


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database, callback_body=lambda job: b"", keeping=HandClock())


new_id = IdMaker()


async def add(store: Store, spec: JobSpec = SPEC) -> Job:
    job = Job(new_id(), spec, "queued", 1.0)
    await store.add(job, max_open=1000, key=None)
    return job


async def spoil(database: Database, job: Job, how: str) -> None:
    column, value = SPOILS[how]
    async with database.transaction() as db:
        await db.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (value, job.id))


@pytest.mark.parametrize("how", SPOILS)
async def test_a_row_that_cannot_be_read_fails_its_own_job_and_no_other(
    store: Store, database: Database, how: str
) -> None:
    poisoned, other = await add(store), await add(store)
    await spoil(database, poisoned, how)
    shown = await store.get(poisoned.id)
    assert shown.failure is not None
    assert (shown.state, shown.failure.code) == ("failed", "unreadable_record")
    assert [job.id for job in await store.page(state=None, limit=9, after=None)] == [other.id, poisoned.id]
    assert {job.id for job in await store.in_state("queued")} == {other.id, poisoned.id}
    with pytest.raises(UnreadableRecord):
        await store.take(ENGINES, 2.0)
    assert [job.id for job in await store.mend(3.0)] == [poisoned.id]
    taken = await store.take(ENGINES, 4.0)
    assert taken is not None
    assert taken.id == other.id
    assert (await store.counts())["failed"] == 1
    assert await store.mend(5.0) == []
    await store.delete(poisoned.id, 6.0)
    assert (await store.get(poisoned.id)).deleted


@pytest.mark.parametrize("how", SPOILS)
async def test_a_poisoned_job_can_be_deleted_before_it_is_mended(store: Store, database: Database, how: str) -> None:
    poisoned = await add(store)
    await spoil(database, poisoned, how)
    with pytest.raises(Conflict):
        await store.request_cancel(poisoned.id, 2.0)
    await store.delete(poisoned.id, 3.0)
    assert await store.take(ENGINES, 4.0) is None


@pytest.mark.parametrize("how", SPOILS)
async def test_the_owner_of_a_poisoned_job_and_its_end_are_kept_where_they_can_be_read(
    store: Store, database: Database, how: str
) -> None:
    job = await add(store)
    await store.take(ENGINES, 1.0)
    await store.succeed(job.id, OUTCOME, now=2.0, keep_s=7.0, ending=Ending())
    await spoil(database, job, how)
    shown = await store.get(job.id)
    assert shown.spec.owner == ("" if how.startswith("spec is") or "null for" in how else "alice")
    assert await store.recent_speeds() == []
    assert await store.unknown([job.id]) == [job.id]
    assert await store.with_files() == {job.id: "succeeded"}, "its video is not removed"


async def test_a_row_with_an_impossible_id_stops_nothing(store: Store, database: Database) -> None:
    other = await add(store)
    async with database.transaction() as db:
        for number, job_id in enumerate(("../../etc", "I" * 26, "zzz")):
            state = ("queued", "running", "failed")[number]
            await db.execute(
                "INSERT INTO jobs (id, state, wanted_engine, duration_s, spec, created_at)"
                " VALUES (?, ?, 'auto', 1, '', 1)",
                (job_id, state),
            )
    assert IdMaker(await store.last_id())() > other.id
    await store.mend(2.0)
    assert [job.id for job in await store.page(state=None, limit=9, after=None)] == [other.id]


async def test_a_job_that_could_not_be_read_back_is_not_accepted(store: Store, database: Database) -> None:
    for spec in (
        replace(SPEC, duration_s=math.nan),
        replace(SPEC, ask=Ask.model_construct(face_box=(math.nan, 0, 1, 1))),
        replace(SPEC, ask=Ask.model_construct(options={"deep": [math.inf]})),
    ):
        with pytest.raises(InvalidInput, match="cannot be stored"):
            await add(store, spec)
    assert await database.rows("SELECT * FROM jobs") == []


async def test_callbacks_that_cannot_be_read_delay_no_other(database: Database) -> None:
    async with database.transaction() as db:
        for number in range(9):
            await db.execute(
                "INSERT INTO outbox (job_id, url, body, created_at, next_at) VALUES (?, 'http://a/', ?, ?, 0)",
                (str(number), "not bytes" if number < 8 else b"{}", "never" if number < 8 else 1.0),
            )
    posted = asyncio.Event()

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        posted.set()
        return 200

    outbox = asyncio.create_task(Outbox(database, b"secret", post, keeping=lambda: 2.0).run())
    async with asyncio.timeout(5):
        await posted.wait()
        while await database.rows("SELECT * FROM outbox"):
            pass
    outbox.cancel()
    await asyncio.gather(outbox, return_exceptions=True)

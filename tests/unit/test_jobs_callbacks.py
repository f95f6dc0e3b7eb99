"""The outbox of callbacks against clocks and receivers that misbehave, with a real database and clocks set by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hand_clock import HandClock
from lipsync_server.errors import FetchFailed
from lipsync_server.jobs.database import connection
from lipsync_server.jobs.database.connection import Database, open_database
from lipsync_server.jobs.database.schema import STEPS
from lipsync_server.jobs.delivery.callbacks import Outbox, Post

DAY_S = 86400.0


async def _add(database: Database, job_id: str, url: str) -> None:
    async with database.transaction() as db:
        await db.execute(
            "INSERT INTO outbox (job_id, url, body, created_at, next_at) VALUES (?, ?, x'7b7d', 0, 0)", (job_id, url)
        )


@asynccontextmanager
async def _sending(outbox: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    while not await true():
        pass


async def test_a_wall_clock_that_is_set_gives_up_no_callback_and_delays_none(database: Database) -> None:
    """The clock jumps by 400 days and back while a receiver is away for a minute."""
    keeping, wall, n_posted = HandClock(0.0), HandClock(0.0), 0

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        nonlocal n_posted
        n_posted += 1
        raise FetchFailed("nobody is there")

    await _add(database, "a", "http://a/")
    outbox = Outbox(database, b"secret", post, keeping=keeping, wall=wall)
    async with _sending(outbox):
        for jump_s in (400 * DAY_S, -400 * DAY_S, 2 * DAY_S):
            before = n_posted
            wall.seconds = jump_s
            keeping.seconds += 60.0
            outbox.wake()

            async def tried(before: int = before) -> bool:
                rows = await database.rows("SELECT attempts FROM outbox WHERE next_at > ?", keeping.seconds)
                return n_posted > before and len(rows) == 1

            await _until(tried)
        keeping.seconds += DAY_S + 1.0
        outbox.wake()

        async def given_up() -> bool:
            return not await database.rows("SELECT 1 FROM outbox")

        await _until(given_up)


@pytest.mark.parametrize("n_stalled", [9, 500])
async def test_receivers_that_stall_delay_no_other_receiver(database: Database, n_stalled: int) -> None:
    """The stalled receivers have many older callbacks. The good one gets its callback while all of them still stall."""
    stalled: set[str] = set()
    arrived = asyncio.Event()

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        if "good" in url:
            arrived.set()
            return 200
        stalled.add(headers["Lipsync-Delivery"])
        await asyncio.Event().wait()
        return 0

    for number in range(n_stalled):
        await _add(database, f"{number}", f"http://me@stalls.example:80/{number}")
    await _add(database, "good", "https://good.example/hook")
    async with _sending(Outbox(database, b"secret", post, keeping=HandClock(1.0))):
        await arrived.wait()
    assert 0 < len(stalled) <= 4


async def test_deliveries_that_are_on_the_way_are_not_sent_twice(database: Database) -> None:
    await _add(database, "a", "http://a/")
    sent: asyncio.Queue[str] = asyncio.Queue()
    answer = asyncio.Event()

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        sent.put_nowait(url)
        await answer.wait()
        return 200

    outbox = Outbox(database, b"secret", post, keeping=HandClock(1.0))
    async with _sending(outbox):
        urls = [await sent.get()]
        for number in range(5):
            await _add(database, f"b{number}", f"http://b{number}/")
            outbox.wake()
            urls.append(await sent.get())
        answer.set()

        async def delivered() -> bool:
            return not await database.rows("SELECT 1 FROM outbox")

        await _until(delivered)
    assert urls == ["http://a/", *(f"http://b{number}/" for number in range(5))]
    assert sent.empty()


async def test_callbacks_of_an_older_server_are_tried_at_once_and_for_a_whole_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their times are the wall clock's: about 1.8e9 seconds."""
    path = tmp_path / "old.db"
    with monkeypatch.context() as older:
        older.setattr(connection, "STEPS", STEPS[:2])
        old = await open_database(path)
    async with old.transaction() as db:
        await db.execute(
            "INSERT INTO outbox (job_id, url, body, created_at, next_at) VALUES ('a', 'http://a/', x'', 1.8e9, 1.8e9)"
        )
        await db.execute("INSERT INTO keeping_clock VALUES (1, 5000, 'boot', 1)")
    await old.close()
    database = await open_database(path)
    (row,) = await database.rows("SELECT created_at, next_at FROM outbox")
    assert tuple(row) == (5000.0, 5000.0)
    await database.close()


async def test_a_failing_post_of_any_kind_keeps_the_callback(database: Database) -> None:
    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        raise RuntimeError("a library's own error")

    await _add(database, "a", "http://[::1")
    typed: Post = post
    async with _sending(Outbox(database, b"secret", typed, keeping=HandClock(1.0))):

        async def noted() -> bool:
            return bool(await database.rows("SELECT 1 FROM outbox WHERE attempts = 1 AND last_error != ''"))

        await _until(noted)


async def test_a_callback_that_becomes_due_while_the_outbox_is_read_is_sent(database: Database) -> None:
    """The delivery becomes due after the outbox asked for due deliveries and before it asks how long to sleep."""
    arrived = asyncio.Event()
    readings = iter((0.0,))

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        arrived.set()
        return 200

    await _add(database, "a", "http://a/")
    async with database.transaction() as db:
        await db.execute("UPDATE outbox SET next_at = 1")
    async with _sending(Outbox(database, b"secret", post, keeping=lambda: next(readings, 2.0))):
        await arrived.wait()

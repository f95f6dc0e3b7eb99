"""The SQLite file: one connection that writes, one that reads, transactions and schema steps.

Knows aiosqlite and schema.py. Does not know what a job is. WAL lets the reader go on while a transaction is written;
`synchronous=FULL` makes a committed answer survive a power cut as well as a killed process.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.schema import STEPS

Value = str | bytes | int | float | None


class Database:
    """Made by `open_database`; closed by `close`."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """All or nothing: commits when the block ends, rolls back when it raises or is cancelled."""
        async with self._lock:
            try:
                # Inside the try: a cancelled wait does not keep the statement from being carried out.
                await self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
            except BaseException:
                await self._writer.rollback()
                raise
            await self._writer.commit()

    async def rows(self, sql: str, *values: Value) -> list[aiosqlite.Row]:
        return list(await self._reader.execute_fetchall(sql, values))

    async def row(self, sql: str, *values: Value) -> aiosqlite.Row | None:
        rows = await self.rows(sql, *values)
        return rows[0] if rows else None

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()


async def open_database(path: Path) -> Database:
    """Open or make the database at `path`, brought to the newest schema."""
    writer = await _connect(path)
    try:
        await _upgrade(writer, path)
        reader = await _connect(path)
    except BaseException:
        await writer.close()
        raise
    return Database(writer, reader)


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = aiosqlite.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        await connection.execute(f"PRAGMA {pragma}")
    return connection


async def _upgrade(connection: aiosqlite.Connection, path: Path) -> None:
    (row,) = await connection.execute_fetchall("PRAGMA user_version")
    version = int(row[0])
    if version > len(STEPS):
        raise LipsyncError(
            f"{path} was written by a newer lipsync-server (schema {version}, this one knows {len(STEPS)}). "
            "Install that version again or point LIPSYNC_DATA_DIR to another folder."
        )
    for number, step in enumerate(STEPS[version:], start=version + 1):
        # executescript() would commit first; one statement string keeps step and version together.
        await connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")

"""The SQLite file: one connection that writes, one that reads, transactions and schema steps.

Knows aiosqlite and schema.py. Does not know jobs. SQLite's write-ahead log (WAL) lets the reader continue while a
transaction is written. `synchronous=FULL` makes a committed transaction survive a power cut and a killed process.
"""

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiosqlite

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.database.network_disk import database_address
from lipsync_server.jobs.database.schema import STEPS

Value = str | bytes | int | float | None


class Database:
    """The two connections. `open_database` makes the object, `close` closes it."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """A transaction: commits when the block ends, rolls back when the block raises or is cancelled."""
        async with self._lock:
            try:
                # Inside the try: SQLite executes the statement even if the wait for it is cancelled.
                await self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
            except BaseException:
                await self._writer.rollback()
                raise
            await self._writer.commit()

    async def rows(self, sql: str, *values: Value) -> list[aiosqlite.Row]:
        """The rows of a query, read outside of any transaction."""
        return list(await self._reader.execute_fetchall(sql, values))

    async def row(self, sql: str, *values: Value) -> aiosqlite.Row | None:
        """The first row of a query, or None."""
        rows = await self.rows(sql, *values)
        return rows[0] if rows else None

    async def open_again(self) -> None:
        """Replace both connections: a file that was open when its volume went away stays unusable."""
        async with self._lock:
            writer = await _connect(self._path)
            try:
                reader = await _connect(self._path)
            except BaseException:
                await writer.close()
                raise
            old = (self._reader, self._writer)
            self._reader, self._writer = reader, writer
        for connection in old:
            with suppress(sqlite3.Error):
                await connection.close()

    async def close(self) -> None:
        """Close both connections."""
        await self._reader.close()
        await self._writer.close()


async def open_database(path: Path) -> Database:
    """Open or make the database at `path` and bring it to the newest schema. Raises LipsyncError when it is spoilt."""
    try:
        writer = await _connect(path)
        try:
            await _upgrade(writer, path)
            reader = await _connect(path)
        except BaseException:
            await writer.close()
            raise
    except sqlite3.DatabaseError as error:
        raise LipsyncError(
            f"The database {path} cannot be used ({error}). If its disk is in order, move the file away, with those "
            "beside it that begin with the same name, and start again: finished videos are kept and get new records; "
            "jobs that had not ended are lost."
        ) from error
    return Database(path, writer, reader)


async def _connect(path: Path) -> aiosqlite.Connection:
    address = await in_daemon_thread(functools.partial(database_address, path))
    connecting = aiosqlite.connect(address, uri=True, isolation_level=None)
    try:
        connection = await connecting
    except sqlite3.Error:
        # aiosqlite does not wait for its thread, which fails with a stack trace if the event loop ends before it.
        await asyncio.to_thread(connecting._thread.join)
        raise
    connection.row_factory = aiosqlite.Row
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
            await connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()  # its thread would keep the process alive
        raise
    return connection


async def _upgrade(connection: aiosqlite.Connection, path: Path) -> None:
    """Apply the schema steps that the database lacks. Raises LipsyncError for a database of a newer version."""
    (row,) = await connection.execute_fetchall("PRAGMA user_version")
    version = int(row[0])
    if version > len(STEPS):
        raise LipsyncError(
            f"{path} was written by a newer lipsync-server (schema {version}, this one knows {len(STEPS)}). "
            "Install that version again or point LIPSYNC_DATA_DIR to another folder."
        )
    for number, step in enumerate(STEPS[version:], start=version + 1):
        # executescript() commits first, so the step and its version number are one script with its own transaction.
        await connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")

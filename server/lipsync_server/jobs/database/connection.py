"""The SQLite file: one connection that writes, one that reads, transactions and schema steps.

Knows aiosqlite and schema.py. Does not know jobs. SQLite's write-ahead log (WAL) lets the reader continue while a
transaction is written. `synchronous=FULL` makes a committed transaction survive a power cut and a killed process.
"""

import asyncio
import functools
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiosqlite

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.durable import publish
from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.database.network_disk import database_address
from lipsync_server.jobs.database.schema import STEPS

Value = str | bytes | int | float | None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Place:
    """The surroundings of the database's path. device: the disk of its folder, or of the nearest folder above it.

    exists: whether the database is there. has_log: whether its write-ahead log is. Inodes are not compared, because
    file systems of other machines and programs may give a file another one at each look.
    """

    device: int
    exists: bool
    has_log: bool


class Database:
    """The two connections. `open_database` makes the object, `close` closes it. place: the file that they opened."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection, place: _Place) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._place = place
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
        try:
            return list(await self._reader.execute_fetchall(sql, values))
        except (ValueError, sqlite3.ProgrammingError):  # closed by check_place(), which holds the lock meanwhile
            async with self._lock:
                reader = self._reader
            return list(await reader.execute_fetchall(sql, values))

    async def row(self, sql: str, *values: Value) -> aiosqlite.Row | None:
        """The first row of a query, or None."""
        rows = await self.rows(sql, *values)
        return rows[0] if rows else None

    async def open_again(self) -> None:
        """Replace both connections: a file that was open when its volume went away stays unusable.

        Raises LipsyncError without a database at the path: SQLite would make an empty one in place of the disk.
        """
        async with self._lock:
            if not (await in_daemon_thread(functools.partial(_place_of, self._path))).exists:
                raise LipsyncError("it is not mounted")
            writer = await _connect(self._path)
            try:
                reader = await _connect(self._path)
            except BaseException:
                await writer.close()
                raise
            old = (self._reader, self._writer)
            self._reader, self._writer = reader, writer
            self._place = await in_daemon_thread(functools.partial(_place_of, self._path))
        for connection in old:
            with suppress(sqlite3.Error):
                await connection.close()

    async def check_place(self) -> None:
        """Call at intervals: writes the database to its path again after somebody has removed its files.

        SQLite continues to use a removed file, whose contents would be lost at the end of the process. Raises
        LipsyncError when the path is on another disk now, as after an `umount`.
        """
        found = await in_daemon_thread(functools.partial(_place_of, self._path))
        if not found.exists and found.device != self._place.device:
            raise LipsyncError("it is not mounted")
        if not found.exists or (self._place.has_log and not found.has_log):
            log.error("the files of the database %s were removed; it is written again", self._path)
            await self._write_again()
        else:
            self._place = found

    async def _write_again(self) -> None:
        """Copy the database from the removed files that are still open to its path, and use the copy."""
        async with self._lock:
            partial = self._path.with_name(f".{self._path.name}.part")
            await in_daemon_thread(lambda: _make_room(partial))
            await self._reader.execute("VACUUM INTO ?", (str(partial),))
            # Closed before the copy has the name: SQLite removes the log that has the name of a database at its end.
            for connection in (self._reader, self._writer):
                with suppress(sqlite3.Error):
                    await connection.close()
            await in_daemon_thread(functools.partial(_put_in_place, partial, self._path))
            self._writer = await _connect(self._path)
            self._reader = await _connect(self._path)
            self._place = await in_daemon_thread(functools.partial(_place_of, self._path))

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
    return Database(path, writer, reader, await in_daemon_thread(functools.partial(_place_of, path)))


def _place_of(path: Path) -> _Place:
    """The surroundings of `path` now. Waits while the disk is stuck."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    return _Place(folder.stat().st_dev, path.exists(), path.with_name(f"{path.name}-wal").exists())


def _make_room(partial: Path) -> None:
    """Make the folder of `partial` if it is missing, and remove an older file of that name."""
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)


def _put_in_place(partial: Path, path: Path) -> None:
    """Give the complete database `partial` the name `path`, without the logs of the database before it."""
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    partial.chmod(0o600)
    publish(partial, path)


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

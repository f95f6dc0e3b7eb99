"""Watch the volume of the data folder: whether it answers, and if not, since when and with which error.

A network disk can stop answering at any moment. Then every call to a file on it waits in its thread, and so does the
database. A disk can also fail, and then open files stay unusable after it is mounted again. This module writes and
syncs a small file at intervals, in a thread that may hang. Knows one folder. Does not know requests or jobs.
"""

import asyncio
import errno
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.errors import LipsyncError, VolumeStuck

log = logging.getLogger(__name__)

STUCK_S = 15.0
"""A volume that has not answered for this long counts as away. A disk that spins up or is busy answers sooner."""
_POLL_INTERVAL_S = 3.0
_GONE = (
    *(errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    errno.EROFS,
)
"""The errors of a volume that is away or was made read-only. Any other error, as of a full disk, is an answer."""
_FILE = ".answers"


async def _nothing() -> None:
    """The `open_again` and `check_files` of a VolumeWatch that has no open files."""


class VolumeWatch:
    """The state of the volume that contains `folder`. `run` is the task that tests the volume.

    open_again: called when the volume works again after errors; it reopens the files that were open before.
    check_files: called at intervals while the volume works; it puts removed files back, or raises LipsyncError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        open_again: Callable[[], Awaitable[None]] = _nothing,
        check_files: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.open_again, self.check_files = open_again, check_files
        self._folder = folder
        self._asked_at: float | None = None
        self._error = ""
        self._away_until: float | None = None
        self._testing = asyncio.Lock()

    @property
    def trouble(self) -> VolumeStuck | None:
        """The error for a caller who needs the volume now; None while the volume answers."""
        if self._error:
            return volume_stuck(f"cannot be used ({self._error})")
        waited_s = 0.0 if self._asked_at is None else time.monotonic() - self._asked_at
        return volume_stuck(f"has not answered for {waited_s:.0f} s") if waited_s >= STUCK_S else None

    async def was_away(self, since: float) -> bool:
        """Return whether the volume was away after `since`, a time of the monotonic clock. Waits until it is back."""
        works = await self._test()
        while not works:
            await asyncio.sleep(_POLL_INTERVAL_S)
            works = await self._test()
        return self._away_until is not None and self._away_until >= since

    async def run(self) -> None:
        """Test the volume at intervals, until cancelled."""
        while True:
            await self._test()
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _test(self) -> bool:
        """Test the volume once, however long that takes. Returns whether it works."""
        async with self._testing:
            self._asked_at = time.monotonic()
            test = asyncio.create_task(in_daemon_thread(functools.partial(_write, self._folder / _FILE)))
            stuck = not (await asyncio.wait({test}, timeout=STUCK_S))[0]
            if stuck:
                log.error("the volume of the data folder does not answer; requests that need it are refused")
                await asyncio.wait({test})
                waited_s = time.monotonic() - self._asked_at
                log.warning("the volume of the data folder answers again after %.0f s", waited_s)
            self._asked_at = None
            await self._learn(test.result())
            if stuck or self._error:
                self._away_until = time.monotonic()
            return not self._error

    async def _learn(self, error: OSError | None) -> None:
        """Store the error of the last test. When an error is gone, reopen the files. Without one, check them."""
        before = self._error
        if error is not None and error.errno in _GONE:
            self._error = error.strerror or str(error)
            if not before:
                log.error("the volume of the data folder cannot be used: %s", error)
        elif before:
            try:
                await self.open_again()
            except (OSError, sqlite3.Error, LipsyncError) as still:
                self._error = str(still)
                log.error("the data folder cannot be opened again: %s", still)
            else:
                self._error, self._away_until = "", time.monotonic()
                log.warning("the volume of the data folder can be used again")
        else:
            try:
                await self.check_files()
            except LipsyncError as missing:
                self._error = missing.detail
                log.error("the data folder cannot be used: %s", missing)
            except (OSError, sqlite3.Error) as unknown:
                log.warning("the files of the data folder cannot be checked: %s", unknown)


def is_gone(error: BaseException) -> bool:
    """Whether the error says that the volume of the data folder is away."""
    if isinstance(error, sqlite3.OperationalError):
        # A full disk raises OperationalError too, but its volume is not away.
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    return isinstance(error, OSError) and error.errno in _GONE


def volume_stuck(fault: str) -> VolumeStuck:
    """The error for a caller. fault: the words after "The volume of the server's data folder"."""
    return VolumeStuck(
        f"The volume of the server's data folder (LIPSYNC_DATA_DIR) {fault}, as a network disk whose server is away. "
        "Jobs and videos on it are kept. Mount it again, or send the request again later.",
        retry_after_s=30,
    )


def _write(path: Path) -> OSError | None:
    """Write to the volume and sync. Returns the error, or None."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error
    return None

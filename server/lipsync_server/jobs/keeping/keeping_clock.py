"""The clock that decides when finished videos expire: it only runs forwards, and nobody can set it.

A rented machine's wall clock may be wrong by days until NTP sets it; that must not expire a video that is one minute
old. This clock counts seconds since the database was made, with the kernel's boot-time clock, and stores its reading in
the database at intervals. A restart of the server continues the clock exactly. While the machine is off, the clock does
not advance, so that a video is kept longer rather than shorter.
"""

import time
from pathlib import Path

from lipsync_server.jobs.database.connection import Database

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class KeepingClock:
    """Call the clock for its current reading in seconds. `open_keeping_clock` makes it."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds, self._started_at = seconds, _since_boot_s()

    def __call__(self) -> float:
        return self._seconds + _since_boot_s() - self._started_at

    async def save(self) -> None:
        """Store the reading, so that the clock continues from here after the machine was off."""
        async with self._database.transaction() as db:
            await db.execute(
                "INSERT OR REPLACE INTO keeping_clock (one, seconds, boot_id, since_boot_s) VALUES (1, ?, ?, ?)",
                (self(), _boot_id(), _since_boot_s()),
            )


async def open_keeping_clock(database: Database) -> KeepingClock:
    """The clock of `database`, continued from its last stored reading."""
    row = await database.row("SELECT seconds, boot_id, since_boot_s FROM keeping_clock")
    seconds = 0.0
    if row is not None and all(isinstance(row[name], int | float) for name in ("seconds", "since_boot_s")):
        seconds = max(0.0, float(row["seconds"]))
        if row["boot_id"] and row["boot_id"] == _boot_id():
            seconds += max(0.0, _since_boot_s() - float(row["since_boot_s"]))
    clock = KeepingClock(database, seconds)
    await clock.save()
    return clock


def _since_boot_s() -> float:
    """Seconds since the machine started, with the time of sleep if the system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _boot_id() -> str:
    """The id of this run of the kernel; "" where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""

"""Reads jobs from SQLite: one job, pages, counts, sums for forecasts, and the videos that have expired.

Changes nothing; store.py does. Knows the records of model.py and their tables.
"""

from collections.abc import Callable, Iterable

from lipsync_server.errors import NotFound
from lipsync_server.jobs.database.connection import Database
from lipsync_server.jobs.database.records import is_readable, read_job
from lipsync_server.jobs.model import STATES, Job, State, is_job_id


class Queries:
    """Questions about the stored jobs. keeping: the clock that decides when videos expire."""

    def __init__(self, database: Database, keeping: Callable[[], float]) -> None:
        self._db = database
        self._keeping = keeping

    async def get(self, job_id: str) -> Job:
        """Return the job. Raises NotFound."""
        row = await self._db.row("SELECT * FROM jobs WHERE id = ?", job_id)
        if row is None:
            raise NotFound(f"There is no job {job_id[:64]!r} on this server. Check the id, or list them: GET /v1/jobs.")
        return read_job(row)

    async def page(self, *, state: State | None, limit: int, after: str | None, owner: str | None = None) -> list[Job]:
        """Up to `limit` jobs, newest first, older than the id `after`. owner: None for all, else only this owner's."""
        rows = await self._db.rows(
            "SELECT * FROM jobs WHERE deleted = 0 AND (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR id < ?2)"
            " AND (?4 IS NULL OR CASE WHEN json_valid(spec) THEN json_extract(spec, '$.owner') END = ?4)"
            " ORDER BY id DESC LIMIT ?3",
            state,
            after,
            limit,
            owner,
        )
        return [read_job(row) for row in rows]

    async def in_state(self, state: State) -> list[Job]:
        """All jobs in `state`, oldest first."""
        return [read_job(row) for row in await self._db.rows("SELECT * FROM jobs WHERE state = ? ORDER BY id", state)]

    async def counts(self) -> dict[State, int]:
        """The number of jobs in each state, deleted ones not counted."""
        rows = await self._db.rows("SELECT state, count(*) FROM jobs WHERE deleted = 0 GROUP BY state")
        found = {row[0]: int(row[1]) for row in rows}
        return {state: found.get(state, 0) for state in STATES}

    async def n_open(self) -> tuple[int, int]:
        """The number of queued and of running jobs."""
        rows = await self._db.rows("SELECT state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY 1")
        found = {row[0]: int(row[1]) for row in rows}
        return found.get("queued", 0), found.get("running", 0)

    async def waiting_by_engine(self) -> dict[str, tuple[int, float]]:
        """For every requested engine: the number of queued jobs and their total length in seconds of video."""
        rows = await self._db.rows(
            "SELECT wanted_engine, count(*), total(duration_s) FROM jobs WHERE state = 'queued' GROUP BY wanted_engine"
        )
        return {row[0]: (int(row[1]), float(row[2])) for row in rows}

    async def ahead(self, job_id: str) -> tuple[int, float]:
        """The number of queued jobs before this one, and their total length in seconds of video."""
        row = await self._db.row(
            "SELECT count(*), total(duration_s) FROM jobs WHERE state = 'queued' AND id < ?",
            job_id,
        )
        assert row is not None
        return int(row[0]), float(row[1])

    async def anything_to_stay_for(self, *, finished_within_s: float) -> bool:
        """Whether the machine has to keep running: for a job, or for a video that exists only here and is still needed.

        A finished video is needed until it is collected or has expired.

        finished_within_s: videos that were finished longer ago do not count.
        """
        now = self._keeping()
        row = await self._db.row(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'running') OR (state = 'succeeded'"
            " AND purged_at IS NULL AND collected_at IS NULL AND stored IS NULL AND keep_until > ?"
            " AND ended_on_clock > ?))",
            now,
            now - finished_within_s,
        )
        return bool(row and row[0])

    async def last_id(self) -> str:
        """The largest id so far; "" before the first job."""
        row = await self._db.row("SELECT max(id) FROM jobs WHERE length(id) = 26")
        last = (row[0] if row else None) or ""
        return last if is_job_id(last) else ""

    async def recent_speeds(self, n: int = 50) -> list[tuple[str, float]]:
        """Engine and seconds of work per second of video of the last succeeded jobs, oldest first."""
        rows = await self._db.rows("SELECT * FROM jobs WHERE state = 'succeeded' ORDER BY id DESC LIMIT ?", n)
        outcomes = [(job.engine, job.outcome) for job in map(read_job, reversed(rows))]
        return [
            (engine, outcome.render_s / outcome.duration_s)
            for engine, outcome in outcomes
            if outcome is not None and outcome.duration_s > 0 and outcome.render_s > 0
        ]

    async def find_key(self, owner: str, key: str) -> tuple[str, str] | None:
        """The fingerprint and the job id stored for an Idempotency-Key, or None."""
        row = await self._db.row("SELECT fingerprint, job_id FROM idempotency WHERE owner = ? AND key = ?", owner, key)
        return (row[0], row[1]) if row else None

    async def expired(self) -> list[str]:
        """The ids of finished jobs whose video has expired."""
        rows = await self._db.rows(
            "SELECT id FROM jobs WHERE keep_until <= ? AND purged_at IS NULL AND keep_until IS NOT NULL",
            self._keeping(),
        )
        return [row[0] for row in rows]

    async def next_expiry_in_s(self) -> float | None:
        """Seconds until the next video expires; None while no video is kept."""
        row = await self._db.row(
            "SELECT min(keep_until) FROM jobs WHERE purged_at IS NULL AND keep_until IS NOT NULL"
            " AND typeof(keep_until) = 'real'"
        )
        return None if row is None or row[0] is None else max(0.0, float(row[0]) - self._keeping())

    async def with_files(self) -> dict[str, State]:
        """The jobs that may have files, with their states: jobs that have not ended, and jobs whose video is kept."""
        rows = await self._db.rows(
            "SELECT id, state FROM jobs"
            " WHERE state IN ('queued', 'running') OR (state = 'succeeded' AND purged_at IS NULL)"
        )
        return {row[0]: row[1] for row in rows}

    async def unknown(self, job_ids: Iterable[str]) -> list[str]:
        """The ids in `job_ids` without a record, or with an unreadable record of a succeeded job."""
        unknown = []
        for job_id in job_ids:
            row = await self._db.row("SELECT * FROM jobs WHERE id = ?", job_id)
            if row is None or (row["state"] == "succeeded" and row["purged_at"] is None and not is_readable(row)):
                unknown.append(job_id)
        return unknown

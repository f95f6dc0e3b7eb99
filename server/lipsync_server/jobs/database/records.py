"""Converts jobs to rows of SQLite and back. A row that cannot be read affects its own job only.

Knows the columns of schema.py and the records of model.py. Does not know when a row is written. Every row is read back
in the transaction that writes it, so that no record is stored that cannot be read.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import aiosqlite
from pydantic import TypeAdapter

from lipsync_server.errors import InvalidInput
from lipsync_server.jobs.model import FINAL_STATES, CostRecord, Failure, Job, JobSpec, State, is_job_id, made_at
from lipsync_server.workers.task import RenderOutcome

_JOB = TypeAdapter(Job)
_SPEC = TypeAdapter(JobSpec)
_OUTCOME = TypeAdapter(RenderOutcome)
_FAILURE = TypeAdapter(Failure)
_COST = TypeAdapter(CostRecord)
# Columns that hold JSON.
_JSON = ("spec", "outcome", "failure", "cost", "stage_s", "failed_on")
# Columns that copy fields of a job's spec, so that queries can use them.
_COPIES = ("wanted_engine", "duration_s")
# Fields that older servers stored in the spec itself; newer servers store them in its `ask`.
_ASKED = ("prompt", "preset", "resolution", "seed", "face_index", "face_box", "options")
UNREADABLE = Failure(
    "unreadable_record",
    "The job's record cannot be read",
    "The server's record of this job is damaged and cannot be read, so the job was ended. Send it again.",
    500,
)


class UnreadableRecord(Exception):
    """A row that cannot be read as a job. The message names the job and the first error."""


async def insert_job(db: aiosqlite.Connection, job: Job) -> None:
    """Add a row for a job. Raises InvalidInput when the row cannot be read back."""
    try:
        await db.execute(
            "INSERT INTO jobs (id, state, wanted_engine, duration_s, spec, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (job.id, job.state, job.spec.engine, job.spec.duration_s, _text(_SPEC, job.spec), job.created_at),
        )
        await write_job(db, job)
    except (UnreadableRecord, sqlite3.IntegrityError) as error:  # SQLite stores NaN as NULL
        raise InvalidInput(f"This job's options cannot be stored: {error}. Send plain, finite values.") from error


async def write_job(db: aiosqlite.Connection, job: Job) -> None:
    """Write all columns of a stored job. Raises UnreadableRecord when the row cannot be read back."""
    values = {
        "state": job.state,
        "engine": job.engine,
        "wanted_engine": job.spec.engine,
        "duration_s": job.spec.duration_s,
        "spec": _text(_SPEC, job.spec),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "collected_at": job.collected_at,
        "expires_at": job.expires_at,
        "purged_at": job.purged_at,
        "deleted": job.deleted,
        "cancel_requested": job.cancel_requested,
        "attempts": job.attempts,
        "n_crashes": job.n_crashes,
        "stage": job.stage,
        "fraction": job.fraction,
        "worker_s": job.worker_s,
        "outcome": _text(_OUTCOME, job.outcome),
        "failure": _text(_FAILURE, job.failure),
        "cost": _text(_COST, job.cost),
        "stored": job.stored,
        "stage_s": json.dumps(job.stage_s),
        "keep_until": job.keep_until,
        "ended_on_clock": job.ended_on_clock,
        "failed_on": json.dumps(job.failed_on, ensure_ascii=False),
    }
    columns = ", ".join(f"{name} = ?" for name in values)
    await db.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*values.values(), job.id))  # noqa: S608 - our own names
    (row,) = await db.execute_fetchall("SELECT * FROM jobs WHERE id = ?", (job.id,))
    if job_of(row) != job:
        raise UnreadableRecord(f"job {job.id} reads back as another one")


def job_of(row: aiosqlite.Row) -> Job:
    """Convert a row to a job. Raises UnreadableRecord."""
    try:
        values: dict[str, Any] = {name: row[name] for name in row.keys() if name not in _COPIES}  # noqa: SIM118 - a Row
        for name in _JSON:
            if values[name] is not None:
                values[name] = json.loads(values[name], parse_constant=_refuse)
        values["spec"] = _current_spec(values["spec"])
        job = _JOB.validate_python(values)
        json.dumps(_JOB.dump_python(job), default=str, allow_nan=False)  # pydantic lets infinite numbers through
        if not is_job_id(job.id):
            raise ValueError("its id is not one of this server's")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnreadableRecord(f"job {str(row['id'])[:64]!r}: {reason}") from error
    return job


def read_job(row: aiosqlite.Row) -> Job:
    """Convert a row to a job; a row that cannot be read becomes a failed job with an explanation."""
    try:
        return job_of(row)
    except UnreadableRecord:
        return stand_in(row)


def stand_in(row: aiosqlite.Row) -> Job:
    """An ended job in place of a row that cannot be read, with the values of the row that are valid."""
    job_id = str(row["id"])
    created_at = made_at(job_id) if is_job_id(job_id) else 0.0
    state: State = row["state"] if row["state"] in FINAL_STATES - {"succeeded"} else "failed"
    owner: object = ""
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        owner = json.loads(row["spec"]).get("owner", "")
    return Job(
        id=job_id,
        spec=JobSpec(
            engine="auto",
            image_name="",
            audio_name="",
            file_name="lipsync.mp4",
            duration_s=0.0,
            owner=owner if isinstance(owner, str) else "",
        ),
        state=state,
        created_at=created_at,
        finished_at=created_at,
        purged_at=_number(row["purged_at"]),
        deleted=row["deleted"] == 1,
        failure=UNREADABLE if state == "failed" else None,
        keep_until=_number(row["keep_until"]),
        ended_on_clock=_number(row["ended_on_clock"]),
    )


def _text(adapter: TypeAdapter[Any], value: object) -> str | None:
    """The JSON of a value for its column; None stays None."""
    return None if value is None else adapter.dump_json(value).decode()


def _current_spec(values: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's values in the current form, whichever version of the server wrote them."""
    spec = dict(values)
    if "ask" not in spec:
        spec["ask"] = {name: spec.pop(name) for name in _ASKED if name in spec}
    return spec


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _number(value: object) -> float | None:
    """The value of a column that should hold a number, or None if it holds something else."""
    return float(value) if isinstance(value, int | float) else None


def is_readable(row: sqlite3.Row) -> bool:
    """Whether a row of the table of jobs can be read as a job."""
    try:
        job_of(row)
    except UnreadableRecord:
        return False
    return True

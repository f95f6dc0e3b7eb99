"""Jobs as rows of SQLite and back.

Knows the columns of schema.py and the records of model.py. Does not know when what is written.
"""

import json
from typing import TypeVar

import aiosqlite
from pydantic import TypeAdapter

from lipsync_server.jobs.model import CostRecord, Failure, Job, JobSpec
from lipsync_server.workers.task import RenderOutcome

_SPEC = TypeAdapter(JobSpec)
_OUTCOME = TypeAdapter(RenderOutcome)
_FAILURE = TypeAdapter(Failure)
_COST = TypeAdapter(CostRecord)
_SECONDS = TypeAdapter(dict[str, float])
_T = TypeVar("_T")
# Fields of a stored job that older servers wrote beside the others; they are parts of `ask` since.
_ASKED = ("prompt", "preset", "resolution", "seed", "face_index", "face_box", "options")


async def insert_job(db: aiosqlite.Connection, job: Job) -> None:
    """Add a job that waits."""
    await db.execute(
        "INSERT INTO jobs (id, state, wanted_engine, duration_s, spec, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (job.id, job.state, job.spec.engine, job.spec.duration_s, _SPEC.dump_json(job.spec).decode(), job.created_at),
    )


async def write_job(db: aiosqlite.Connection, job: Job) -> None:
    await db.execute(
        "UPDATE jobs SET state = ?, engine = ?, spec = ?, started_at = ?, finished_at = ?, collected_at = ?,"
        " expires_at = ?, purged_at = ?, deleted = ?, cancel_requested = ?, attempts = ?, n_crashes = ?, stage = ?,"
        " fraction = ?, worker_s = ?, outcome = ?, failure = ?, cost = ?, stored = ?, stage_s = ? WHERE id = ?",
        (
            job.state,
            job.engine,
            _SPEC.dump_json(job.spec).decode(),
            job.started_at,
            job.finished_at,
            job.collected_at,
            job.expires_at,
            job.purged_at,
            job.deleted,
            job.cancel_requested,
            job.attempts,
            job.n_crashes,
            job.stage,
            job.fraction,
            job.worker_s,
            _text(_OUTCOME, job.outcome),
            _text(_FAILURE, job.failure),
            _text(_COST, job.cost),
            job.stored,
            _SECONDS.dump_json(job.stage_s).decode(),
            job.id,
        ),
    )


def _text(adapter: TypeAdapter[_T], value: _T | None) -> str | None:
    return None if value is None else adapter.dump_json(value).decode()


def _value(adapter: TypeAdapter[_T], text: str | None) -> _T | None:
    return None if text is None else adapter.validate_json(text)


def _spec_of(text: str) -> JobSpec:
    """The spec of a row, whichever version of the server wrote it."""
    values = json.loads(text)
    if "ask" not in values:
        values["ask"] = {name: values.pop(name) for name in _ASKED if name in values}
    return _SPEC.validate_python(values)


def job_of(row: aiosqlite.Row) -> Job:
    return Job(
        id=row["id"],
        spec=_spec_of(row["spec"]),
        state=row["state"],
        created_at=row["created_at"],
        engine=row["engine"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        collected_at=row["collected_at"],
        expires_at=row["expires_at"],
        purged_at=row["purged_at"],
        deleted=bool(row["deleted"]),
        cancel_requested=bool(row["cancel_requested"]),
        attempts=row["attempts"],
        n_crashes=row["n_crashes"],
        stage=row["stage"],
        fraction=row["fraction"],
        worker_s=row["worker_s"],
        outcome=_value(_OUTCOME, row["outcome"]),
        failure=_value(_FAILURE, row["failure"]),
        cost=_value(_COST, row["cost"]),
        stored=row["stored"],
        stage_s=_SECONDS.validate_json(row["stage_s"]),
    )

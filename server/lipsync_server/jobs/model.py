"""The states of a job and its frozen records.

Knows the worker's outcome record. Does not know SQLite, HTTP or any engine. Times are seconds since the epoch.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from lipsync_server.engines.ask import Ask
from lipsync_server.workers.task import RenderOutcome

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "succeeded", "failed", "cancelled")
FINAL_STATES: frozenset[State] = frozenset(("succeeded", "failed", "cancelled"))

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: its text order is its numeric order
_N_TIME = 10
_N_RANDOM = 16


@dataclass(frozen=True)
class JobSpec:
    """The accepted request of a job.

    engine: as requested, "auto" included. duration_s: length of the recording. owner: the name of the caller's token.
    ask: the prompt and options as the caller sent them. warnings: sentences from the check of the uploads.
    """

    engine: str
    image_name: str
    audio_name: str
    file_name: str
    duration_s: float
    ask: Ask = field(default_factory=Ask)
    second_audio_name: str | None = None
    owner: str = ""
    callback_url: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a job failed: the code, title and sentence of the LipsyncError that ended it, and its HTTP status."""

    code: str
    title: str
    detail: str
    status: int


@dataclass(frozen=True)
class CostRecord:
    """The cost of a job: seconds on workers in all attempts, at the price that was valid when the job ended."""

    worker_seconds: float
    price_per_hour: float
    currency: str

    @property
    def amount(self) -> float:
        """The cost in `currency`: worker_seconds * price_per_hour / 3600."""
        return self.worker_seconds * self.price_per_hour / 3600


@dataclass(frozen=True)
class Job:
    """One job as stored in the database.

    engine: the engine that renders the job, "" before its start. attempts: number of starts. n_crashes: number of
    workers that died while they rendered the job. fraction, stage: the progress that was last stored. worker_s:
    seconds on workers. purged_at: when the job's files were removed (expired or deleted). deleted: whether the owner
    removed the job. expires_at: the probable removal of the video by the wall clock, for display. keep_until,
    ended_on_clock: readings of the keeping clock (keeping_clock.py), which decides. failed_on: machines that failed
    the job.
    """

    id: str
    spec: JobSpec
    state: State
    created_at: float
    engine: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    collected_at: float | None = None
    expires_at: float | None = None
    purged_at: float | None = None
    deleted: bool = False
    cancel_requested: bool = False
    attempts: int = 0
    n_crashes: int = 0
    stage: str = "queued"
    fraction: float = 0.0
    worker_s: float = 0.0
    outcome: RenderOutcome | None = None
    failure: Failure | None = None
    cost: CostRecord | None = None
    stored: str | None = None
    stage_s: dict[str, float] = field(default_factory=dict)
    keep_until: float | None = None
    ended_on_clock: float | None = None
    failed_on: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES

    @property
    def has_video(self) -> bool:
        """Whether the finished video is kept."""
        return self.state == "succeeded" and self.purged_at is None


class IdMaker:
    """Makes ids that sort by time, never repeat and cannot be guessed: 50 bits of milliseconds, 80 random bits.

    Every id of one maker is larger than its previous id and than `after`, even when the wall clock is set back.
    """

    def __init__(self, after: str = "", clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last_ms = _decode(after[:_N_TIME]) if after else 0

    def __call__(self) -> str:
        self._last_ms = max(int(self._clock() * 1000), self._last_ms + 1)
        return _encode(self._last_ms, _N_TIME) + _encode(secrets.randbits(5 * _N_RANDOM), _N_RANDOM)


def _encode(number: int, n_digits: int) -> str:
    """`number` in Crockford's base 32, with leading zeros."""
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(n_digits)))


def _decode(text: str) -> int:
    number = 0
    for digit in text:
        number = number << 5 | _ALPHABET.index(digit)
    return number


def made_at(job_id: str) -> float:
    """Seconds since the epoch when the id was made."""
    return _decode(job_id[:_N_TIME]) / 1000


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of an id. Ids become folder names, so every other text must be refused."""
    return len(text) == _N_TIME + _N_RANDOM and all(digit in _ALPHABET for digit in text)

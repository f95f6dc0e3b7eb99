"""What a job is: the states it goes through and the frozen records of it.

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

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts
_N_TIME = 10
_N_RANDOM = 16


@dataclass(frozen=True)
class JobSpec:
    """What the caller asked for, as it was accepted.

    engine: as asked for, "auto" included. duration_s: length of the recording. owner: the name of the token used.
    ask: the prompt and options as the caller gave them. warnings: what was noticed in the files when they came in.
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
    """What a job cost: seconds on a worker, all attempts together, at the price that held when it ended."""

    worker_seconds: float
    price_per_hour: float
    currency: str

    @property
    def amount(self) -> float:
        return self.worker_seconds * self.price_per_hour / 3600


@dataclass(frozen=True)
class Job:
    """One job as the store has it.

    engine: the engine that renders it, "" until it has started. attempts: times it was started; n_crashes: times a
    worker died under it. fraction, stage: how far it was when last written down. worker_s: seconds on workers.
    purged_at: when its files were removed (expired or deleted); deleted: removed by its owner. expires_at: when the
    video will probably be removed, by the wall clock, for people; keep_until and ended_on_clock are readings of the
    keeping clock and decide. failed_on: the machines that failed it.
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
        return self.state in FINAL_STATES

    @property
    def has_video(self) -> bool:
        return self.state == "succeeded" and self.purged_at is None


class IdMaker:
    """Makes ids that sort by time, never repeat and cannot be guessed: 50 bits of milliseconds, 80 bits of chance.

    Every id of one maker is larger than the one before and than `after`, even when the clock is set back.
    """

    def __init__(self, after: str = "", clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last_ms = _decode(after[:_N_TIME]) if after else 0

    def __call__(self) -> str:
        self._last_ms = max(int(self._clock() * 1000), self._last_ms + 1)
        return _encode(self._last_ms, _N_TIME) + _encode(secrets.randbits(5 * _N_RANDOM), _N_RANDOM)


def _encode(number: int, n_digits: int) -> str:
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
    """Whether `text` has the form of an id; ids become folder names, so nothing else may pass."""
    return len(text) == _N_TIME + _N_RANDOM and all(digit in _ALPHABET for digit in text)

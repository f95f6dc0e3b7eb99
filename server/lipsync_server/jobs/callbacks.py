"""Delivers callbacks: signed, retried with growing pauses, across restarts.

store.py writes a row of the outbox table in the transaction that ends the job, so that no callback is lost; this module
posts the row until a receiver accepts it. Knows the database and a function that posts. Does not know aiohttp: http/
passes that function, with its address checks.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.database import Database
from lipsync_server.jobs.files import kept_secret
from lipsync_server.jobs.watch import set_within

log = logging.getLogger(__name__)

Post = Callable[[str, bytes, dict[str, str]], Awaitable[int]]
"""Posts a body with headers to a URL; returns the HTTP status. Raises LipsyncError or OSError without an answer."""

SIGNATURE_HEADER = "Lipsync-Signature"
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 900.0
_GIVE_UP_S = 86400.0
# n8n answers 404, 409 or 500 to a callback that arrives before it has stored the run as waiting: retry every error.
_GIVE_UP_REFUSED_S = 3600.0
_N_AT_ONCE = 8


@dataclass(frozen=True)
class Delivery:
    id: int
    job_id: str
    url: str
    body: bytes
    created_at: float
    attempts: int


def sign(secret: bytes, body: bytes, timestamp: int) -> str:
    """`t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`; the receiver refuses an old `t`."""
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def load_secret(path: Path) -> bytes:
    """The signing key from the data folder, made on first use."""
    secret, _ = kept_secret(path, lambda: secrets.token_hex(32))
    return secret.encode()


class Outbox:
    """The task that sends the callbacks that are due."""

    def __init__(self, database: Database, secret: bytes, post: Post, clock: Callable[[], float] = time.time) -> None:
        self._db = database
        self._secret = secret
        self._post = post
        self._clock = clock
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Check the outbox now, because a job has ended."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                due = await self._due()
                await asyncio.gather(*(self._deliver_or_drop(delivery) for delivery in due))
                wait_s = 0.0 if due else await self._pause_s()
            except Exception:
                log.exception("callbacks failed; trying again")
                wait_s = 10.0
            if wait_s > 0:
                await set_within(self._wake, wait_s)

    async def _due(self) -> list[Delivery]:
        rows = await self._db.rows(
            "SELECT id, job_id, url, body, created_at, attempts FROM outbox"
            " WHERE next_at <= ? ORDER BY next_at LIMIT ?",
            self._clock(),
            _N_AT_ONCE,
        )
        return [Delivery(*row) for row in rows]

    async def _pause_s(self) -> float:
        row = await self._db.row("SELECT min(next_at) FROM outbox")
        if row is None or row[0] is None:
            return 3600.0
        return max(0.01, float(row[0]) - self._clock())

    async def _deliver_or_drop(self, delivery: Delivery) -> None:
        """Deliver; a row whose values cannot be used is removed, so that it does not hold up the others."""
        try:
            await self._deliver(delivery)
        except (TypeError, ValueError, AttributeError):
            log.exception("the callback of job %s cannot be read; it is dropped", delivery.job_id)
            await self._forget(delivery)

    async def _deliver(self, delivery: Delivery) -> None:
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: sign(self._secret, delivery.body, int(self._clock())),
            "Lipsync-Delivery": f"{delivery.job_id}-{delivery.attempts + 1}",
        }
        status = 0
        try:
            status = await self._post(delivery.url, delivery.body, headers)
            problem = f"answered {status}"
        except (LipsyncError, OSError) as error:
            problem = str(error)
        except Exception as error:
            log.exception("callback of job %s", delivery.job_id)
            problem = str(error)
        extra = {"job_id": delivery.job_id, "attempt": delivery.attempts + 1}
        if 200 <= status < 300:
            log.info("callback delivered", extra=extra)
            await self._forget(delivery)
            return
        refused = 400 <= status < 500 and status not in (408, 425, 429)
        age_s = self._clock() - delivery.created_at
        if age_s > (_GIVE_UP_REFUSED_S if refused else _GIVE_UP_S):
            log.warning("callback given up: %s", problem, extra=extra)
            await self._forget(delivery)
            return
        pause_s = min(_FIRST_PAUSE_S * 2**delivery.attempts, _LONGEST_PAUSE_S)
        log.info("callback again in %.0f s: %s", pause_s, problem, extra=extra)
        async with self._db.transaction() as db:
            await db.execute(
                "UPDATE outbox SET attempts = attempts + 1, next_at = ?, last_error = ? WHERE id = ?",
                (self._clock() + pause_s, problem[:500], delivery.id),
            )

    async def _forget(self, delivery: Delivery) -> None:
        async with self._db.transaction() as db:
            await db.execute("DELETE FROM outbox WHERE id = ?", (delivery.id,))

"""Delivers callbacks and webhooks: signed, retried with growing pauses, across restarts.

store.py writes a row of the outbox table in the transaction that ends the job, so that no callback is lost. This module
posts the row until a receiver accepts it. It measures pauses and the end of all attempts with the keeping clock
(keeping_clock.py): when a wrong wall clock is corrected, a callback of one minute could otherwise seem days old. A
receiver that does not answer occupies a few places only, so that the callbacks of others are sent at once. Knows the
database and a function that posts. Does not know aiohttp: http/ passes that function, with its address checks.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.database.connection import Database
from lipsync_server.jobs.database.webhooks import forget_webhook
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
_N_AT_ONCE = 32
_N_AT_ONCE_TO_A_HOST = 4
_MOST_GIVEN_UP = 20
"""A webhook is removed after this many failed deliveries in a row."""
# The pause after the database could not record the result of a delivery.
_AFTER_AN_ERROR_S = 10.0


@dataclass(frozen=True)
class Delivery:
    """One row of the outbox: a body for one receiver. webhook_id, webhook_secret: None for the callback of one job."""

    id: int
    job_id: str
    url: str
    body: bytes
    created_at: float
    attempts: int
    webhook_id: str | None = None
    webhook_secret: str | None = None


def sign(secret: bytes, body: bytes, timestamp: int) -> str:
    """`t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`; the receiver refuses an old `t`."""
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class Outbox:
    """The task that sends the callbacks that are due.

    keeping: the clock of pauses and of the end of all attempts, in seconds. wall: the time in signatures.
    """

    def __init__(
        self,
        database: Database,
        secret: bytes,
        post: Post,
        *,
        keeping: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._db = database
        self._secret = secret
        self._post = post
        self._keeping, self._wall = keeping, wall
        self._wake = asyncio.Event()
        self._posting: dict[int, str] = {}  # delivery id -> host, while the delivery is being posted

    def wake(self) -> None:
        """Check the outbox now, because a job has ended."""
        self._wake.set()

    async def run(self) -> None:
        """Post the deliveries that are due, until cancelled."""
        async with asyncio.TaskGroup() as sending:
            while True:
                self._wake.clear()
                try:
                    # One reading for both questions: a delivery that becomes due between two readings would be missed.
                    now = self._keeping()
                    for delivery in await self._due(now):
                        self._posting[delivery.id] = _host(delivery.url)
                        sending.create_task(self._deliver_and_settle(delivery))
                    wait_s = await self._pause_s(now)
                except Exception:  # a full disk or a spoilt row must not end the task
                    log.exception("callbacks failed; trying again")
                    wait_s = _AFTER_AN_ERROR_S
                await set_within(self._wake, wait_s)

    async def _due(self, now: float) -> list[Delivery]:
        """The deliveries that are due at `now` and have a place, oldest first."""
        rows = await self._db.rows("SELECT id, url FROM outbox WHERE next_at <= ? ORDER BY next_at", now)
        places = _N_AT_ONCE - len(self._posting)
        by_host = Counter(self._posting.values())
        chosen: list[int] = []
        for number, url in rows:
            host = _host(url)
            if number in self._posting or by_host[host] >= _N_AT_ONCE_TO_A_HOST:
                continue
            if len(chosen) >= places:
                break
            by_host[host] += 1
            chosen.append(number)
        marks = ", ".join("?" * len(chosen))
        whole = await self._db.rows(
            "SELECT outbox.id, job_id, outbox.url, body, outbox.created_at, attempts, webhook_id, secret"  # noqa: S608 - marks only
            f" FROM outbox LEFT JOIN webhooks ON webhooks.id = webhook_id WHERE outbox.id IN ({marks})",
            *chosen,
        )
        return [Delivery(*row) for row in whole]

    async def _pause_s(self, now: float) -> float:
        """Seconds until the first delivery is due that was not due at `now`.

        A delivery that waits for a place begins when another one ends.
        """
        row = await self._db.row("SELECT min(next_at) FROM outbox WHERE next_at > ?", now)
        if row is None or row[0] is None:
            return 3600.0
        return max(0.01, float(row[0]) - self._keeping())

    async def _deliver_and_settle(self, delivery: Delivery) -> None:
        """Deliver, and free the place; a row whose values cannot be used is removed."""
        try:
            await self._deliver(delivery)
        except (TypeError, ValueError, AttributeError):
            log.exception("the callback of job %s cannot be read; it is dropped", delivery.job_id)
            await self._forget(delivery)
        except Exception:  # a database that cannot be written: the row is still there and is posted again
            log.exception("the callback of job %s cannot be recorded; trying again", delivery.job_id)
            await asyncio.sleep(_AFTER_AN_ERROR_S)
        finally:
            del self._posting[delivery.id]
            self._wake.set()

    async def _deliver(self, delivery: Delivery) -> None:
        """Post a delivery once, and record the result: delivered, given up, or to be tried again after a pause."""
        secret = self._secret if delivery.webhook_secret is None else delivery.webhook_secret.encode()
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: sign(secret, delivery.body, int(self._wall())),
            "Lipsync-Delivery": f"{delivery.job_id}-{delivery.attempts + 1}",
        }
        if delivery.webhook_id is not None:
            headers["Lipsync-Webhook"] = delivery.webhook_id
        status = 0
        try:
            status = await self._post(delivery.url, delivery.body, headers)
            problem = f"answered {status}"
        except (LipsyncError, OSError) as error:
            problem = str(error)
        except Exception as error:  # any other fault counts as a failed attempt, so that it is tried again later
            log.exception("callback of job %s", delivery.job_id)
            problem = str(error)
        extra = {"job_id": delivery.job_id, "attempt": delivery.attempts + 1}
        if 200 <= status < 300:
            log.info("callback delivered", extra=extra)
            await self._record_delivered(delivery)
            return
        if status == 410 and delivery.webhook_id is not None:
            await self._remove_webhook(delivery.webhook_id, "its address answers 410")
            return
        refused = 400 <= status < 500 and status not in (408, 425, 429)
        age_s = self._keeping() - delivery.created_at
        if age_s > (_GIVE_UP_REFUSED_S if refused else _GIVE_UP_S):
            log.warning("callback given up: %s", problem, extra=extra)
            await self._give_up(delivery)
            return
        pause_s = min(_FIRST_PAUSE_S * 2**delivery.attempts, _LONGEST_PAUSE_S)
        log.info("callback again in %.0f s: %s", pause_s, problem, extra=extra)
        async with self._db.transaction() as db:
            await db.execute(
                "UPDATE outbox SET attempts = attempts + 1, next_at = ?, last_error = ? WHERE id = ?",
                (self._keeping() + pause_s, problem[:500], delivery.id),
            )

    async def _record_delivered(self, delivery: Delivery) -> None:
        async with self._db.transaction() as db:
            await db.execute("DELETE FROM outbox WHERE id = ?", (delivery.id,))
            await db.execute("UPDATE webhooks SET n_given_up = 0 WHERE id = ?", (delivery.webhook_id,))

    async def _give_up(self, delivery: Delivery) -> None:
        """Drop the delivery. Its webhook is removed too if its address has not answered for long."""
        await self._forget(delivery)
        if delivery.webhook_id is None:
            return
        async with self._db.transaction() as db:
            await db.execute("UPDATE webhooks SET n_given_up = n_given_up + 1 WHERE id = ?", (delivery.webhook_id,))
            rows = list(await db.execute_fetchall("SELECT n_given_up FROM webhooks WHERE id = ?",
                                                  (delivery.webhook_id,)))  # fmt: skip
        if rows and rows[0][0] >= _MOST_GIVEN_UP:
            await self._remove_webhook(delivery.webhook_id, f"{_MOST_GIVEN_UP} deliveries in a row were given up")

    async def _remove_webhook(self, webhook_id: str, reason: str) -> None:
        log.warning("webhook %s is removed: %s", webhook_id, reason)
        async with self._db.transaction() as db:
            await forget_webhook(db, webhook_id)

    async def _forget(self, delivery: Delivery) -> None:
        async with self._db.transaction() as db:
            await db.execute("DELETE FROM outbox WHERE id = ?", (delivery.id,))


def _host(url: object) -> str:
    """The receiver of a callback; "" for a row that cannot be read."""
    try:
        return urlsplit(str(url)).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""

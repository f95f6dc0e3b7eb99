"""Webhooks: addresses that get a signed POST for every job of their owner that ends, until somebody removes them.

A callback (`callback_url`) belongs to one job. A webhook belongs to a token and lasts until it is removed, so that a
program also learns of jobs that others started. The transaction that ends a job writes one row of the outbox (the table
of waiting deliveries) for each webhook, and callbacks.py sends the rows. Each webhook has its own signing key, which
only its creator receives. Knows the database. Does not know HTTP.
"""

import json
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

import aiosqlite

from lipsync_server.errors import Conflict, NotFound
from lipsync_server.jobs.database.connection import Database
from lipsync_server.jobs.model import Job
from lipsync_server.validation import show

Event = Literal["job.succeeded", "job.failed", "job.cancelled"]
EVENTS: tuple[Event, ...] = get_args(Event)
MAX_WEBHOOKS = 50
"""The largest number of webhooks of one caller. Each webhook costs one request for every job."""
_COLUMNS = "id, owner, sees_all, token_id, url, events, secret, created_at"


@dataclass(frozen=True)
class Webhook:
    """One address. sees_all: whether it gets a POST for every job, or only for the jobs of the name `owner`.

    token_id: names the token that made the webhook. A webhook is removed when the server no longer has its token.
    """

    id: str
    owner: str
    sees_all: bool
    token_id: str
    url: str
    events: tuple[Event, ...]
    secret: str
    created_at: float


class Webhooks:
    """Reads and changes webhooks. wall: seconds since the epoch."""

    def __init__(self, database: Database, wall: Callable[[], float] = time.time) -> None:
        self._db = database
        self._wall = wall

    async def put(self, *, owner: str, sees_all: bool, token_id: str, url: str, events: Collection[Event]) -> Webhook:
        """Add a webhook. It replaces an earlier one of the same owner and address, so that no POST is sent twice."""
        webhook = Webhook(
            id=secrets.token_hex(12),
            owner=owner,
            sees_all=sees_all,
            token_id=token_id,
            url=url,
            events=tuple(event for event in EVENTS if event in events),
            secret=secrets.token_hex(32),
            created_at=self._wall(),
        )
        async with self._db.transaction() as db:
            # Deliveries that still wait go to the same address, signed with the new key.
            earlier = list(
                await db.execute_fetchall("SELECT id FROM webhooks WHERE owner = ? AND url = ?", (owner, url))
            )
            for row in earlier:
                await db.execute("UPDATE outbox SET webhook_id = ? WHERE webhook_id = ?", (webhook.id, row[0]))
                await db.execute("DELETE FROM webhooks WHERE id = ?", (row[0],))
            (row,) = await db.execute_fetchall("SELECT count(*) FROM webhooks WHERE owner = ?", (owner,))
            if row[0] >= MAX_WEBHOOKS:
                raise Conflict(
                    f"There are {row[0]} webhooks already, which is the limit. Remove those that nobody needs: "
                    "GET /v1/webhooks lists them, DELETE /v1/webhooks/ID removes one."
                )
            await db.execute(
                f"INSERT INTO webhooks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own names
                (
                    webhook.id,
                    owner,
                    sees_all,
                    token_id,
                    url,
                    json.dumps(webhook.events),
                    webhook.secret,
                    webhook.created_at,
                ),
            )
        return webhook

    async def of(self, owner: str | None) -> list[Webhook]:
        """The webhooks of `owner`, oldest first. owner: None for all webhooks."""
        rows = await self._db.rows(
            f"SELECT {_COLUMNS} FROM webhooks WHERE ?1 IS NULL OR owner = ?1 ORDER BY created_at, id",  # noqa: S608 - our own names
            owner,
        )
        return [_webhook(row) for row in rows]

    async def get(self, webhook_id: str, owner: str | None) -> Webhook:
        """Return the webhook of `owner` (None: of any owner). Raises NotFound."""
        for webhook in await self.of(owner):
            if webhook.id == webhook_id:
                return webhook
        raise NotFound(f"There is no webhook {show(webhook_id)} on this server. GET /v1/webhooks lists them.")

    async def waits(self, webhook_id: str, job_id: str) -> bool:
        """Whether the POST of this job has still to be answered with success; False after that, and for a replay."""
        found = await self._db.row(
            "SELECT 1 FROM outbox WHERE webhook_id = ? AND job_id = ? LIMIT 1", webhook_id, job_id
        )
        return found is not None

    async def remove(self, webhook_id: str) -> None:
        """Remove the webhook and its deliveries that still wait."""
        async with self._db.transaction() as db:
            await forget_webhook(db, webhook_id)

    async def keep_only(self, token_ids: Collection[str]) -> int:
        """Remove the webhooks of tokens that the server no longer has; returns how many."""
        lost = [webhook.id for webhook in await self.of(None) if webhook.token_id not in token_ids]
        for webhook_id in lost:
            await self.remove(webhook_id)
        return len(lost)


async def forget_webhook(db: aiosqlite.Connection, webhook_id: str) -> None:
    """Remove a webhook and its waiting deliveries in the transaction `db`."""
    await db.execute("DELETE FROM outbox WHERE webhook_id = ?", (webhook_id,))
    await db.execute("DELETE FROM webhooks WHERE id = ?", (webhook_id,))


async def announce_end(db: aiosqlite.Connection, job: Job, make_body: Callable[[Job], bytes]) -> None:
    """Write the deliveries of a job that ends in this transaction: its own callback, and one for each webhook."""
    receivers: list[tuple[str, str | None]] = []
    if job.spec.callback_url:
        receivers.append((job.spec.callback_url, None))
    rows = await db.execute_fetchall(
        "SELECT url, id, events FROM webhooks WHERE sees_all OR owner = ?", (job.spec.owner,)
    )
    receivers += [(row[0], row[1]) for row in rows if f'"job.{job.state}"' in row[2]]
    if not receivers:
        return
    body = make_body(job)
    for url, webhook_id in receivers:
        await db.execute(
            "INSERT INTO outbox (job_id, url, body, created_at, next_at, webhook_id) VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
            (job.id, url, body, job.ended_on_clock, webhook_id),
        )


def _webhook(row: aiosqlite.Row) -> Webhook:
    known = json.loads(row["events"])
    return Webhook(
        id=row["id"],
        owner=row["owner"],
        sees_all=bool(row["sees_all"]),
        token_id=row["token_id"],
        url=row["url"],
        events=tuple(event for event in EVENTS if event in known),
        secret=row["secret"],
        created_at=row["created_at"],
    )

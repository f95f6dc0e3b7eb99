"""The keys (web.AppKey) under which handlers find the resources of the application.

app.py stores a resource under each key. Knows types only.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from lipsync_server.cloud.this_machine.address import PublicAddress
from lipsync_server.cloud.this_machine.idle import IdleWatch
from lipsync_server.http.callers.auth import Tokens
from lipsync_server.http.callers.links import VideoLinks
from lipsync_server.http.callers.slots import KeyLocks, Slots
from lipsync_server.http.counters import Metrics
from lipsync_server.http.inputs.fetch import Fetcher
from lipsync_server.http.inputs.probe import Prober
from lipsync_server.jobs.database.webhooks import Webhooks
from lipsync_server.jobs.delivery.callbacks import Outbox
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.keeping.retention import Retention
from lipsync_server.jobs.running.finish import AfterRender
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.jobs.running.queue import JobQueue
from lipsync_server.jobs.volume import VolumeWatch
from lipsync_server.settings import Settings
from lipsync_server.workers.base import Executor, LoadState

if TYPE_CHECKING:  # imports the hub's client, which most servers do not need
    from lipsync_server.jobs.running.profile import ProfileAtStart

SETTINGS = web.AppKey("settings", Settings)
PROBER = web.AppKey("prober", Prober)
FILES = web.AppKey("files", JobFiles)
QUEUE = web.AppKey("queue", JobQueue)
PLANNER = web.AppKey("planner", Planner)
ADDRESS = web.AppKey("address", PublicAddress)
IDLE: web.AppKey[IdleWatch | None] = web.AppKey("idle")
PROFILE: web.AppKey["ProfileAtStart | None"] = web.AppKey("profile")
RETENTION = web.AppKey("retention", Retention)
FETCHER = web.AppKey("fetcher", Fetcher)
METRICS = web.AppKey("metrics", Metrics)
SLOTS = web.AppKey("slots", Slots)
STREAMS = web.AppKey("streams", Slots)
EXECUTOR = web.AppKey("executor", Executor)
READINESS: web.AppKey[Callable[[], LoadState]] = web.AppKey("readiness")
OUTBOX = web.AppKey("outbox", Outbox)
WEBHOOKS = web.AppKey("webhooks", Webhooks)
TOKENS = web.AppKey("tokens", Tokens)
AFTER_RENDER: web.AppKey[AfterRender | None] = web.AppKey("after_render")
LINKS = web.AppKey("links", VideoLinks)
VOLUME = web.AppKey("volume", VolumeWatch)
ABANDONED: web.AppKey["set[asyncio.Task[web.StreamResponse]]"] = web.AppKey("abandoned")
"""Handlers of requests that were answered without them, because the data folder's volume was stuck."""
KEY_LOCKS = web.AppKey("key_locks", KeyLocks)

"""Builds the aiohttp application: opens the resources, adds the routes, keeps no global state.

`create_app(settings)` is pure: it opens nothing until the application starts. Every resource is a cleanup context that
closes what it opened, in reverse order.
"""

import asyncio
import functools
import importlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from lipsync_server.cloud.this_machine.address import PublicAddress
from lipsync_server.cloud.this_machine.idle import IdleWatch, Stop, make_stop
from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.errors import LipsyncError
from lipsync_server.http import keys
from lipsync_server.http.answers.callback_body import callback_body
from lipsync_server.http.answers.problem import add_request_id, problem_middleware
from lipsync_server.http.api_docs import openapi
from lipsync_server.http.callers.auth import Tokens, auth_middleware, needs_token
from lipsync_server.http.callers.cors import add_cors_headers, cors_middleware
from lipsync_server.http.callers.links import VideoLinks
from lipsync_server.http.callers.slots import MAX_STREAMS, KeyLocks, Slots
from lipsync_server.http.closed_files import close_to_others
from lipsync_server.http.counters import Metrics
from lipsync_server.http.idleness import machine_is_needed
from lipsync_server.http.inputs.fetch import Fetcher
from lipsync_server.http.inputs.probe import Prober
from lipsync_server.http.inputs.uploads import delay_continue
from lipsync_server.http.routes import (
    doctor,
    engines,
    events,
    health,
    idle_stop,
    jobs,
    links,
    lipsync,
    metrics,
    page,
    stills,
    stream,
    webhooks,
)
from lipsync_server.http.routing import Route
from lipsync_server.http.volume import note_begun_answer, volume_middleware
from lipsync_server.jobs.database.connection import open_database
from lipsync_server.jobs.database.store import Store
from lipsync_server.jobs.database.webhooks import Webhooks
from lipsync_server.jobs.delivery.callbacks import Outbox
from lipsync_server.jobs.delivery.handover import checked_hand_over
from lipsync_server.jobs.files import JobFiles, signing_key
from lipsync_server.jobs.keeping.keeping_clock import open_keeping_clock
from lipsync_server.jobs.keeping.retention import Retention, sweep_leftovers
from lipsync_server.jobs.lock import lock_data_dir
from lipsync_server.jobs.model import Job
from lipsync_server.jobs.running.finish import AfterRender
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.jobs.running.queue import JobQueue
from lipsync_server.jobs.volume import VolumeWatch
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.settings import Settings
from lipsync_server.version import __version__
from lipsync_server.workers.base import Executor, LoadState, OffersEngines, TakesLateWeights

if TYPE_CHECKING:  # imports the hub's client, which most servers do not need
    from lipsync_server.jobs.running.profile import ProfileAtStart

log = logging.getLogger(__name__)

_API = (
    *lipsync.ROUTES,
    *jobs.ROUTES,
    *links.ROUTES,
    *webhooks.ROUTES,
    *events.ROUTES,
    *stream.ROUTES,
    *stills.ROUTES,
    *engines.ROUTES,
    *doctor.ROUTES,
    *idle_stop.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *page.ROUTES,
)
ROUTES: tuple[Route, ...] = (*_API, *openapi.make_routes(_API))
_PUBLIC = frozenset(route.path for route in ROUTES if route.public)


def create_app(
    settings: Settings,
    executor: Executor | None = None,
    *,
    registry: Registry = ENGINES,
    fetcher: Fetcher | None = None,
    after_render: AfterRender | None = None,
    stop_machine: Stop | None = None,
    decoders: DecoderPool | None = None,
) -> web.Application:
    """The server as an aiohttp application.

    executor: runs the renders; made from the settings when not given. fetcher: makes the outgoing requests.
    after_render: copies a finished video to LIPSYNC_STORE before its job counts as succeeded. stop_machine: called
    when LIPSYNC_IDLE_STOP has expired. decoders: processes that decode uploads; the application starts its own when
    none are given.
    """
    tokens = Tokens(settings.tokens)
    if needs_token(settings) and not tokens:
        raise LipsyncError("A server that others can reach needs a token: set LIPSYNC_TOKENS.")
    app = web.Application(
        middlewares=[
            problem_middleware,
            cors_middleware(settings.cors_origins),
            auth_middleware(tokens, settings, _is_public),
            volume_middleware,
        ]
    )
    app[keys.SETTINGS] = settings
    app[keys.TOKENS] = tokens
    app[keys.EXECUTOR] = executor or make_executor(settings, registry)
    app[keys.PLANNER] = Planner(_offered(app[keys.EXECUTOR], registry), settings)
    app[keys.PROFILE] = _profile(app)
    app[keys.READINESS] = _readiness(app)
    app[keys.PROBER] = Prober(settings, decoders)
    app[keys.FILES] = JobFiles(settings.data_dir, min_free_bytes=settings.min_free_disk_bytes)
    app[keys.FETCHER] = fetcher or Fetcher(
        allow_private=settings.allow_private_urls, user_agent=f"lipsync-server/{__version__}"
    )
    app[keys.ADDRESS] = PublicAddress(settings.public_url)
    app[keys.IDLE] = None
    if settings.idle_stop > 0:
        stop_machine = stop_machine or make_stop(settings, os.environ)
        app[keys.IDLE] = IdleWatch(
            idle_s=settings.idle_stop * 60, busy=functools.partial(machine_is_needed, app), stop=stop_machine
        )
    app[keys.METRICS] = Metrics()
    app[keys.SLOTS] = Slots(settings.max_uploads, "uploads are being received")
    app[keys.STREAMS] = Slots(MAX_STREAMS, "event streams are open")
    app[keys.KEY_LOCKS] = KeyLocks()
    app[keys.VOLUME] = VolumeWatch(settings.data_dir)
    app[keys.ABANDONED] = set()
    app[keys.AFTER_RENDER] = after_render
    app.cleanup_ctx.extend([_prober, _jobs, _outgoing, _idle])
    app.on_shutdown.append(_stop_queue)
    app.on_response_prepare.append(add_request_id)
    app.on_response_prepare.append(add_cors_headers)
    app.on_response_prepare.append(note_begun_answer)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler, expect_handler=delay_continue)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, route.handler)
    return app


def create_health_app(app: web.Application) -> web.Application:
    """A second application with the health routes of `app` only, for LIPSYNC_PORT_HEALTH."""
    small = web.Application(middlewares=[problem_middleware])
    small[keys.READINESS] = app[keys.READINESS]
    small.add_routes([web.route(route.method, route.path, route.handler) for route in health.ROUTES])
    return small


def make_executor(settings: Settings, registry: Registry = ENGINES) -> Executor:
    """The executor that `settings.executor` names, which runs the workers; nothing is started yet."""
    if settings.executor == "ray":
        # Imported here: Ray is an optional extra, installed only where `--executor ray` is used.
        ray_executor: Executor = importlib.import_module("lipsync_server.workers.ray.executor").RayExecutor(
            settings, registry
        )
        return ray_executor
    from lipsync_server.workers.process.executor import ProcessExecutor

    return ProcessExecutor(settings, registry)


def _offered(executor: Executor, registry: Registry) -> Registry:
    """The engines that the executor offers: the machines of a cluster may have engines that this machine lacks."""
    return executor.registry if isinstance(executor, OffersEngines) else registry


def _profile(app: web.Application) -> "ProfileAtStart | None":
    """The download of LIPSYNC_PROFILE, which begins with the server; None without a profile, and with Ray."""
    settings, executor = app[keys.SETTINGS], app[keys.EXECUTOR]
    if not settings.profile:
        return None
    if not isinstance(executor, TakesLateWeights):
        log.warning(
            "LIPSYNC_PROFILE is not downloaded with --executor %s: run `lipsync weights pull %s` on every machine",
            settings.executor,
            settings.profile,
        )
        return None
    from lipsync_server.jobs.running.profile import ProfileAtStart

    return ProfileAtStart(settings, app[keys.PLANNER], executor)


def _readiness(app: web.Application) -> Callable[[], LoadState]:
    """The state of the data folder's volume if it is stuck, of the weights while they download, else of the workers."""

    def load_state() -> LoadState:
        profile, queue = app[keys.PROFILE], app.get(keys.QUEUE)
        if trouble := app[keys.VOLUME].trouble:
            return LoadState(False, "failed", 0.0, trouble.public_detail)
        downloading = profile and profile.load_state()
        return downloading or (app[keys.EXECUTOR].load_state() if queue is None else queue.load_state())

    return load_state


def _is_public(request: web.Request) -> bool:
    """Whether the route table marks the request's route as public."""
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in _PUBLIC


async def _prober(app: web.Application) -> AsyncIterator[None]:
    """Cleanup context of the decoder processes that check uploads; they start while the server starts."""
    app[keys.PROBER].start()
    yield
    await app[keys.PROBER].close()


async def _jobs(app: web.Application) -> AsyncIterator[None]:
    """Cleanup context of the data folder, the database, the queue and the tasks that delete expired files."""
    settings, files = app[keys.SETTINGS], app[keys.FILES]
    await asyncio.to_thread(files.prepare)
    async with lock_data_dir(files.data_dir) as lock:
        database_path = files.data_dir / "lipsync.db"
        await asyncio.to_thread(close_to_others, database_path)
        database = await open_database(database_path)
        await asyncio.to_thread(close_to_others, database_path)
        queue: JobQueue | None = None

        async def open_again() -> None:
            await asyncio.to_thread(lock.renew)
            await database.open_again()

        async def check_files() -> None:
            await database.check_place()
            await in_daemon_thread(files.prepare)
            await in_daemon_thread(lock.renew_if_removed)

        app[keys.VOLUME].open_again, app[keys.VOLUME].check_files = open_again, check_files
        try:
            keeping = await open_keeping_clock(database)
            store = Store(database, callback_body=callback_body(app[keys.ADDRESS]), keeping=keeping)
            await sweep_leftovers(store, files, keep_s=settings.result_ttl_s)
            retention = Retention(store, files, grace_s=settings.collected_grace_s, keeping=keeping)
            secret = await asyncio.to_thread(_secret, settings, files)
            app[keys.LINKS] = VideoLinks(await asyncio.to_thread(signing_key, files.data_dir / "link_secret"))
            app[keys.WEBHOOKS] = Webhooks(database)
            if n_lost := await app[keys.WEBHOOKS].keep_only(app[keys.TOKENS].ids):
                log.warning("%d webhooks are removed, because the server no longer has their tokens", n_lost)
            outbox = Outbox(database, secret, app[keys.FETCHER].post, keeping=keeping)

            def on_end(job: Job) -> None:
                app[keys.METRICS].job_ended(job)
                outbox.wake()
                retention.wake()

            after_render = app[keys.AFTER_RENDER] or await checked_hand_over(settings)
            queue = JobQueue(
                store=store,
                files=files,
                executor=app[keys.EXECUTOR],
                planner=app[keys.PLANNER],
                settings=settings,
                after_render=after_render,
                on_end=on_end,
                was_away=app[keys.VOLUME].was_away,
            )
            app[keys.QUEUE], app[keys.RETENTION], app[keys.OUTBOX] = queue, retention, outbox
            await queue.start()
            if (profile := app[keys.PROFILE]) is not None:
                downloading = asyncio.create_task(profile.run(queue), name="weights")
            expiring = asyncio.create_task(retention.run(), name="retention")
            watching = asyncio.create_task(app[keys.VOLUME].run(), name="volume")
            yield
            tasks = [expiring, watching]
            if profile is not None:
                profile.stop()
                tasks.append(downloading)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            if queue is not None:
                await queue.close()
            await database.close()


async def _outgoing(app: web.Application) -> AsyncIterator[None]:
    """Cleanup context of the HTTP client session and of the callbacks sent through it."""
    async with app[keys.FETCHER]:
        task = asyncio.create_task(app[keys.OUTBOX].run(), name="callbacks")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _idle(app: web.Application) -> AsyncIterator[None]:
    """Cleanup context of the task that stops an idle machine (LIPSYNC_IDLE_STOP)."""
    if (watch := app[keys.IDLE]) is None:
        yield
        return
    task = asyncio.create_task(watch.run(), name="idle stop")
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _stop_queue(app: web.Application) -> None:
    """Close the queue before the connections, so that every request that waits for a job gets its answer."""
    await app[keys.QUEUE].close()


def _secret(settings: Settings, files: JobFiles) -> bytes:
    """The key of callback signatures: the setting's, else the one in the data folder, made on first use."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value().encode()
    return signing_key(files.data_dir / "webhook_secret")

"""GET /v1/engines: engines, limits and defaults of this server. GET /v1/me: a cheap route to test a token."""

from aiohttp import web

from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.callers.auth import CALLER
from lipsync_server.http.routing import Answer, Route, answer
from lipsync_server.version import __version__


async def engines(request: web.Request) -> web.StreamResponse:
    """The engines, the workers, the limits and the defaults."""
    app = request.app
    settings, queue = app[keys.SETTINGS], app[keys.QUEUE]
    offer = await app[keys.PLANNER].offer()
    n_queued, _ = await queue.store.n_open()
    return answer(
        schemas.Engines(
            default=offer.default,
            default_reason=offer.reason,
            engines=[
                schemas.EngineStatus(
                    name=info.name,
                    title=info.title,
                    available=info.available,
                    reason=info.reason,
                    device=info.device,
                    presets=list(info.presets),
                    resolutions=list(info.resolutions),
                    max_people=info.max_people,
                    options_schema=info.options_schema,
                )
                for info in offer.engines
            ],
            workers=[
                schemas.WorkerStatus(
                    node=info.node,
                    engine=info.engine,
                    state=info.state,
                    job_id=info.task_id if request[CALLER].is_owner else None,
                    reason=info.reason,
                    version=info.version,
                )
                for info in queue.workers()
            ],
            limits=schemas.Limits(
                max_image_bytes=settings.max_image_bytes,
                max_audio_bytes=settings.max_audio_bytes,
                max_image_pixels=settings.max_image_pixels,
                min_audio_s=settings.min_audio_s,
                max_audio_s=settings.max_audio_s,
                max_queue=settings.max_queue,
            ),
            defaults={"preset": settings.preset, "resolution": settings.resolution, "steps": settings.steps},
            queue_length=n_queued,
            public_url=app[keys.ADDRESS].url or None,
            idle_stop_in_s=idle.left_s() if (idle := app[keys.IDLE]) is not None else None,
            version=__version__,
        )
    )


async def me(request: web.Request) -> web.StreamResponse:
    """The caller's name, the version and the default engine."""
    offer = await request.app[keys.PLANNER].offer()
    return answer(schemas.Me(name=request[CALLER].name, version=__version__, engine=offer.default))


ROUTES = (
    Route(
        "GET",
        "/v1/engines",
        engines,
        "List the engines",
        answers={200: Answer("Engines, workers, limits and defaults.", schemas.Engines)},
        tag="server",
    ),
    Route(
        "GET",
        "/v1/me",
        me,
        "Check a token",
        answers={200: Answer("The token is valid.", schemas.Me)},
        tag="server",
    ),
)

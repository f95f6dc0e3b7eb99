"""GET /v1/jobs/{id}/events: the job as server-sent events until it has ended.

Every event carries the whole job, so that a client which missed events, or connects again, needs no other request. The
event is `progress` while the job waits and runs, and `end` once it has ended. A comment line at intervals keeps proxies
from closing a quiet connection.
"""

import asyncio
import time
from contextlib import suppress

from aiohttp import web

from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.routes.job_answers import find_job, shown
from lipsync_server.http.routing import JOB_ID, Answer, Route
from lipsync_server.jobs.model import Job
from lipsync_server.jobs.watch import set_within

_HEARTBEAT_S = 15.0
_AT_MOST_EVERY_S = 0.25


async def events(request: web.Request) -> web.StreamResponse:
    """The events of a job, as server-sent events."""
    job = await find_job(request)
    with request.app[keys.STREAMS].take():
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache, no-transform",
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        with suppress(ConnectionError):  # a caller may disconnect at any moment
            await _send(request, job, response)
        return response


async def _send(request: web.Request, job: Job, response: web.StreamResponse) -> None:
    """Write the events of `job` until it has ended or the server stops."""
    queue = request.app[keys.QUEUE]
    await response.write(b"retry: 2000\n\n")
    sent: schemas.Job | None = None
    with queue.watch.subscribe(job.id) as changed:
        while not queue.stopping:
            changed.clear()
            job = await queue.store.get(job.id)
            view = await shown(request, job)
            if view != sent:
                sent = view
                kind = "end" if job.final else "progress"
                await response.write(f"event: {kind}\ndata: {view.model_dump_json()}\n\n".encode())
            if job.final:
                break
            began = time.monotonic()
            if not await set_within(changed, _HEARTBEAT_S):
                await response.write(b": still here\n\n")
            # Changes within the interval are merged: only the newest state is sent when the interval ends.
            await asyncio.sleep(max(0.0, _AT_MOST_EVERY_S - (time.monotonic() - began)))
    await response.write_eof()


ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{job_id}/events",
        events,
        "Follow a job",
        answers={
            200: Answer(
                "Server-sent events: `progress` and at last `end`, each with the whole job as data.",
                media_type="text/event-stream",
            )
        },
        problems=(404, 410, 429),
        parameters=(JOB_ID,),
    ),
)

"""The poster and the moving preview of a finished video, made by a decoder process when they are first asked for.

Each is kept beside the video and deleted with it. Fetching one does not count as collecting the video.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from aiohttp import web

from lipsync_server.http import keys
from lipsync_server.http.answers.file_names import inline
from lipsync_server.http.inputs.probe import caller_has_left
from lipsync_server.http.routes.job_answers import find_job, finished_video
from lipsync_server.http.routing import JOB_ID, Answer, Route
from lipsync_server.media.framing.wishes import STILL_TYPES, Still
from lipsync_server.media.sandbox.tasks import WriteStill


async def still(request: web.Request, kind: Still) -> web.StreamResponse:
    """A picture or a short loop of a video, made at the first request."""
    job = await find_job(request)
    video = await finished_video(request, job)
    path = request.app[keys.FILES].still(job.id, kind)
    # Two requests at the same time share one computation.
    async with request.app[keys.KEY_LOCKS].hold(job.id, kind):
        if not await asyncio.to_thread(path.is_file):
            duration_s = job.outcome.duration_s if job.outcome is not None else 0.0
            task = WriteStill(video.path, path, kind, duration_s)
            await request.app[keys.PROBER].run(task, partial(caller_has_left, request))
    name = Path(job.spec.file_name)
    return web.FileResponse(
        path,
        headers={
            "Content-Type": STILL_TYPES[kind],
            "Content-Disposition": inline(f"{name.stem}-{kind}"),
            "Cache-Control": "private, no-transform",
        },
    )


def _handler(kind: Still) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await still(request, kind)

    return handler


_SUMMARIES: dict[Still, str] = {
    "poster.jpg": "Fetch the first frame as a picture",
    "preview.webp": "Fetch a short moving preview as WebP",
    "preview.gif": "Fetch a short moving preview as GIF",
}

# The poster has a short address, too, like the contact sheet's.
_ADDRESSES: dict[str, Still] = {kind: kind for kind in _SUMMARIES} | {"poster": "poster.jpg"}

ROUTES = tuple(
    Route(
        "GET",
        f"/v1/jobs/{{job_id}}/{address}",
        _handler(kind),
        _SUMMARIES[kind],
        answers={200: Answer("The picture.", media_type=STILL_TYPES[kind])},
        problems=(404, 409, 410),
        parameters=(JOB_ID,),
        description="A download does not count as collected. Previews have up to 4 s without sound and less than 3 MB."
        if kind != "poster.jpg"
        else "At the video's size, as JPEG. Does not count as collected.",
    )
    for address, kind in _ADDRESSES.items()
)

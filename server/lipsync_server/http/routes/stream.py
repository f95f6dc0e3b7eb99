"""GET /v1/jobs/{id}/stream: the video while it is rendered, as far as it is finished, to the end of the job.

The worker appends to one file (workers/rendering/progressive.py), and this handler sends that file as it grows. A late
viewer gets the beginning at once, and the server computes nothing for a viewer. The answer begins with the first
finished part of the video. Its header Lipsync-Stream has one of three values:

    live       the rest is rendered at least as fast as it plays
    slow       playing has to wait for the rest now and then
    finished   no part could be played before the end: this is the finished video

If the render fails, the connection is broken off, so that half a video never looks like a whole one.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from lipsync_server.http import keys
from lipsync_server.http.routes.job_answers import find_job, finished_video, video_answer
from lipsync_server.http.routing import JOB_ID, Answer, Route
from lipsync_server.jobs.model import Job
from lipsync_server.jobs.running.queue import JobQueue
from lipsync_server.jobs.watch import set_within
from lipsync_server.media.mp4.growing_file import MARK_BYTES, codecs_of, n_frames_at, read_head

_PIECE_BYTES = 256 * 1024
_POLL_INTERVAL_S = 0.25
HEADER = "Lipsync-Stream"


async def stream(request: web.Request) -> web.StreamResponse:
    """A video while it is rendered."""
    job = await find_job(request)
    if request.method == "HEAD":
        return web.Response(content_type="video/mp4")
    with request.app[keys.STREAMS].take():
        file = await _first_part(request, job)
        if file is None:
            job = await request.app[keys.QUEUE].store.get(job.id)
            return await video_answer(request, job, collects=False, headers={HEADER: "finished"})
        try:
            return await _send(request, job, file)
        finally:
            await asyncio.to_thread(file.close)


async def _first_part(request: web.Request, job: Job) -> BinaryIO | None:
    """The growing file, once something is in it. None where the job ended without one; raises where it has no video."""
    queue, path = request.app[keys.QUEUE], request.app[keys.FILES].stream(job.id)
    with queue.watch.subscribe(job.id) as changed:
        while True:
            changed.clear()
            file = await asyncio.to_thread(_open_begun, path)
            if file is not None:
                return file
            job = await queue.store.get(job.id)
            if job.final or queue.stopping:
                await finished_video(request, job)
                return None
            await set_within(changed, _POLL_INTERVAL_S)


def _open_begun(path: Path) -> BinaryIO | None:
    """The growing file, opened, or None while it does not exist or holds no complete piece."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    # The size of the open file, because the file is removed as soon as the job has ended.
    if os.fstat(file.fileno()).st_size >= MARK_BYTES:
        return file
    file.close()
    return None


async def _send(request: web.Request, job: Job, file: BinaryIO) -> web.StreamResponse:
    """Send the file from its beginning until the job has ended."""
    queue = request.app[keys.QUEUE]
    codecs = codecs_of(await asyncio.to_thread(read_head, file))
    response = web.StreamResponse(
        headers={
            "Content-Type": f'video/mp4; codecs="{codecs}"',
            "Cache-Control": "no-store, no-transform",
            "X-Accel-Buffering": "no",
            "Lipsync-Job-Id": job.id,
            HEADER: await _pace(queue, job),
        }
    )
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # a viewer may leave at any moment; that is no error
        if await _copy(queue, job.id, file, response.write):
            await response.write_eof()
        elif request.transport is not None:
            request.transport.abort()
    return response


async def _copy(queue: JobQueue, job_id: str, file: BinaryIO, write: Callable[[bytes], Awaitable[None]]) -> bool:
    """Copy the file until the job has ended; returns whether the whole video was sent."""
    with queue.watch.subscribe(job_id) as changed:
        tail = b""
        while True:
            changed.clear()
            job = await queue.store.get(job_id)
            # The state was read first: a job that has ended by now writes nothing more.
            while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                tail = (tail + piece)[-MARK_BYTES:]
                await write(piece)
            if job.final:
                n_frames = job.outcome.n_frames if job.outcome is not None else 0
                return job.state == "succeeded" and n_frames_at(tail) == n_frames
            if queue.stopping:
                return False
            await set_within(changed, _POLL_INTERVAL_S)


async def _pace(queue: JobQueue, job: Job) -> str:
    """Whether the rest will probably be rendered within the playing time of the video."""
    job = await queue.store.get(job.id)
    finish = await queue.forecast.finish_of(job)
    return "live" if job.final or (finish is not None and finish - time.time() <= job.spec.duration_s) else "slow"


ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{job_id}/stream",
        stream,
        "Watch the video while it is rendered",
        answers={
            200: Answer(
                "The finished part, and the rest as it is rendered: a fragmented MP4. Of a job that has ended, the "
                "finished video.",
                media_type="video/mp4",
                headers={
                    HEADER: "`live`: the rest is rendered as fast as it plays. `slow`: playing has to wait now and "
                    "then. `finished`: the finished video."
                },
            )
        },
        problems=(404, 409, 410, 429),
        parameters=(JOB_ID,),
        description="The answer begins once the first part is finished. The connection breaks off when the job fails.",
    ),
)

"""POST /lipsync: one request that sends a picture and a recording and receives the video.

Existing workflows use this route, so its form does not change. The route makes an ordinary job: when the caller
disconnects, the job continues, and the video can be fetched later with the id from the header `Lipsync-Job-Id`.
"""

import asyncio
import re

from aiohttp import web

from lipsync_server.errors import NotReady
from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.answers.problem import JobEnded
from lipsync_server.http.answers.wire import job_path
from lipsync_server.http.api_docs.openapi import job_form
from lipsync_server.http.routes.job_answers import accepted_answer, job_link, video_answer
from lipsync_server.http.routes.submit import accept
from lipsync_server.http.routing import IDEMPOTENCY_KEY, Answer, Parameter, Route
from lipsync_server.http.volume import waits_for_a_job
from lipsync_server.jobs.model import Failure, Job

VIDEO_NAME = "lipsync.mp4"
_SECONDS = re.compile(r"[0-9]{1,9}")


async def lipsync(request: web.Request) -> web.StreamResponse:
    """Accept a job, wait for its video, and send the video."""
    wait_s = _wait_s(request)
    accepted = await accept(request, default_name=VIDEO_NAME)
    if wait_s == 0:
        return await accepted_answer(request, accepted, headers={"Preference-Applied": "respond-async"})
    waits_for_a_job(request)
    queue = request.app[keys.QUEUE]
    try:
        async with asyncio.timeout(wait_s):
            job = await queue.wait_end(accepted.job.id)
    except TimeoutError:
        return await accepted_answer(request, accepted)
    if not job.final:
        raise NotReady(
            f"The server is stopping. Job {job.id} is kept and goes on after the restart; "
            f"collect it at GET {job_path(job.id, '/video')}.",
            retry_after_s=30,
        )
    if job.state != "succeeded":
        raise _ended(job, request)
    return await video_answer(request, job, headers={"Content-Location": job_link(request, job, "/video")})


def _ended(job: Job, request: web.Request) -> JobEnded:
    """The exception that answers with the error of a failed or cancelled job."""
    failure = job.failure or Failure("cancelled", "The job was cancelled", "The job was cancelled by a caller.", 409)
    return JobEnded(job.id, failure, job_link(request, job))


def _wait_s(request: web.Request) -> float | None:
    """Seconds to wait for the video: 0 answers at once with the job, None waits until the job ends. See RFC 7240."""
    timeout_s = request.app[keys.SETTINGS].sync_timeout_s or None
    preferences = [part.strip().lower() for part in ",".join(request.headers.getall("Prefer", [])).split(",")]
    if "respond-async" not in preferences:
        return timeout_s
    for preference in preferences:
        name, _, value = preference.partition("=")
        if name.strip() == "wait" and _SECONDS.fullmatch(value.strip()):
            wait_s = float(value)
            return wait_s if timeout_s is None else min(wait_s, timeout_s)
    return 0


PREFER = Parameter(
    "Prefer",
    "header",
    "`respond-async` answers 202 with the job at once; with `wait=N` as well, after N seconds if it has not ended.",
    {"type": "string"},
)

ROUTES = (
    Route(
        "POST",
        "/lipsync",
        lipsync,
        "Make a video and wait for it",
        answers={
            200: Answer(
                "The video, as attachment `lipsync.mp4`.",
                media_type="video/mp4",
                headers={"Lipsync-Job-Id": "The id of the job that made the video."},
            ),
            202: Answer("The job goes on: see `Location`.", schemas.Job, headers={"Location": "The job."}),
        },
        problems=(400, 409, 410, 413, 415, 422, 429, 507),
        parameters=(PREFER, IDEMPOTENCY_KEY),
        forms={"multipart/form-data": job_form(), "application/json": schemas.JobRequest},
        description="The job continues when the caller disconnects; its video is then kept like any other job's.",
    ),
)

"""Answers about one job that several routes share: the job as JSON, 202 with its address, its video, or an error.

Knows the queue and the wire format. Does not know the routes.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from lipsync_server.errors import Conflict, Gone, NotFound
from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.answers.video import VideoResponse
from lipsync_server.http.answers.wire import job_now, job_path
from lipsync_server.http.callers.addresses import split_or_none
from lipsync_server.http.callers.auth import CALLER
from lipsync_server.http.routes.submit import Accepted
from lipsync_server.http.routing import answer
from lipsync_server.jobs.model import Job, is_job_id
from lipsync_server.validation import show


def root_of(request: web.Request) -> str:
    """The path part of LIPSYNC_PUBLIC_URL, which comes before every link; "" when the server is reached at the root."""
    public = split_or_none(request.app[keys.ADDRESS].url)
    return public.path.rstrip("/") if public is not None else ""


def job_link(request: web.Request, job: Job, part: str = "") -> str:
    """The address of a job from the root of the server."""
    return root_of(request) + job_path(job.id, part)


async def shown(request: web.Request, job: Job) -> schemas.Job:
    """The current state of the job as JSON."""
    return await job_now(job, request.app[keys.QUEUE], root_of(request))


async def accepted_answer(
    request: web.Request, accepted: Accepted, headers: dict[str, str] | None = None
) -> web.Response:
    """202 with the job and, in Location, its address."""
    job = accepted.job
    replayed = {"Idempotency-Replayed": "true"} if accepted.replayed else {}
    return answer(
        await shown(request, job),
        status=202,
        headers={
            "Location": job_link(request, job),
            "Lipsync-Job-Id": job.id,
            **replayed,
            **(headers or {}),
        },
    )


async def find_job(request: web.Request) -> Job:
    """The job of the path. Raises NotFound, also for a job that the caller may not see, and Gone for a deleted job."""
    job_id = request.match_info["job_id"]
    job = await request.app[keys.QUEUE].store.get(job_id) if is_job_id(job_id) else None
    if job is None or not request[CALLER].sees(job):
        raise NotFound(f"There is no job {show(job_id)} on this server. Check the id, or list them: GET /v1/jobs.")
    if job.deleted:
        raise Gone("The job was deleted.")
    return job


@dataclass(frozen=True)
class FinishedVideo:
    """The file of a finished video, and its size."""

    path: Path
    size_bytes: int


async def finished_video(request: web.Request, job: Job) -> FinishedVideo:
    """The file of the video of `job`. Raises Conflict before the video is finished and Gone once it has expired."""
    if job.deleted:
        raise Gone("The job and its video were deleted.")
    if not job.final:
        raise Conflict(f"The job is {job.state}; its video is not finished yet. Follow it at GET {job_path(job.id)}.")
    if job.state != "succeeded":
        reason = f" {job.failure.detail}" if job.failure else ""
        raise Conflict(f"The job {'failed' if job.failure else 'was cancelled'}; it has no video.{reason}")
    if not job.has_video:
        raise Gone("The video has expired. Finished videos are kept until they are collected, and for a limited time.")
    path = request.app[keys.FILES].video(job.id)
    try:
        return FinishedVideo(path, (await asyncio.to_thread(path.stat)).st_size)
    except FileNotFoundError:
        raise Gone(
            "The video's file is no longer on the server's disk; somebody removed it by hand. Make it again."
        ) from None


async def video_answer(
    request: web.Request, job: Job, *, collects: bool = True, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """The finished video as a download; raises as finished_video does.

    collects: whether a complete download marks the video as collected. headers: further headers of the answer.
    """
    app = request.app

    async def sent(n_bytes: int, is_whole: bool) -> None:
        app[keys.METRICS].bytes_out.inc(n_bytes)
        if is_whole and collects:
            await app[keys.RETENTION].downloaded(job.id)

    file = await finished_video(request, job)
    headers = {"Lipsync-Job-Id": job.id, **(headers or {})}
    return VideoResponse(file.path, job.spec.file_name, file.size_bytes, headers=headers, on_sent=sent)

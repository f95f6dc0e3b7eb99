"""Jobs over HTTP: create, list, read, fetch the video, mark as collected, cancel or delete.

Knows the queue and the wire format. Holds no state.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from lipsync_server.errors import Conflict, InvalidInput, NotFound
from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.answers.file_names import attachment
from lipsync_server.http.api_docs.openapi import job_form
from lipsync_server.http.callers.auth import CALLER
from lipsync_server.http.routes.job_answers import (
    accepted_answer,
    find_job,
    finished_video,
    root_of,
    shown,
    video_answer,
)
from lipsync_server.http.routes.submit import accept
from lipsync_server.http.routing import IDEMPOTENCY_KEY, JOB_ID, Answer, Parameter, Route, answer, answers_of_file
from lipsync_server.jobs.files import CAPTION_FILES, CaptionFile, JobFiles
from lipsync_server.jobs.model import STATES, State, is_job_id

_PAGE = 50
_MAX_PAGE = 200
_MAX_DIGITS = 6
SHEET_TYPE, SPEECH_TYPE = "image/jpeg", "audio/wav"
CAPTION_TYPES: dict[CaptionFile, str] = {"srt": "application/x-subrip", "vtt": "text/vtt"}


async def submit(request: web.Request) -> web.StreamResponse:
    """Accept a job."""
    return await accepted_answer(request, await accept(request))


async def list_jobs(request: web.Request) -> web.StreamResponse:
    """The caller's jobs, in pages."""
    queue = request.app[keys.QUEUE]
    state, limit, after = _state(request), _limit(request), request.query.get("after")
    if after is not None and not is_job_id(after):
        raise InvalidInput("after has to be the id of a job.", field="after")
    caller = request[CALLER]
    owner = None if caller.is_owner else caller.name
    jobs = await queue.store.page(state=state, limit=limit + 1, after=after, owner=owner)
    more = len(jobs) > limit
    jobs = jobs[:limit]
    next_page = str(request.rel_url.update_query(after=jobs[-1].id).query_string) if more else None
    return answer(
        schemas.JobList(
            jobs=[await shown(request, job) for job in jobs],
            next=None if next_page is None else f"{root_of(request)}{request.path}?{next_page}",
        )
    )


async def show(request: web.Request) -> web.StreamResponse:
    """One job."""
    job = await find_job(request)
    return answer(await shown(request, job))


async def video(request: web.Request) -> web.StreamResponse:
    """A job's video."""
    job = await find_job(request)
    return await video_answer(request, job, collects=request.headers.get("Lipsync-Keep") != "true")


async def captions_srt(request: web.Request) -> web.StreamResponse:
    """A job's captions as SRT."""
    return await _captions(request, "srt")


async def captions_vtt(request: web.Request) -> web.StreamResponse:
    """A job's captions as VTT."""
    return await _captions(request, "vtt")


async def sheet(request: web.Request) -> web.StreamResponse:
    """A job's contact sheet."""
    return await _beside_video(
        request, JobFiles.sheet, ".sheet.jpg", SHEET_TYPE,
        "The video was not checked, so it has no contact sheet. Send check=true with the next one.",
    )  # fmt: skip


async def speech(request: web.Request) -> web.StreamResponse:
    """The spoken text of a job as sound."""
    return await _beside_video(
        request, JobFiles.speech, ".wav", SPEECH_TYPE,
        "The video was made from a recording. A video that is made from text has its sound here.",
    )  # fmt: skip


async def _captions(request: web.Request, kind: CaptionFile) -> web.StreamResponse:
    return await _beside_video(
        request,
        lambda files, job_id: files.captions(job_id, kind),
        f".{kind}",
        f"{CAPTION_TYPES[kind]}; charset=utf-8",
        "The video has no captions. Send the spoken words as script with the next one, or captions=track to have them "
        "recognised.",
    )


async def _beside_video(
    request: web.Request, path_of: Callable[[JobFiles, str], Path], suffix: str, media_type: str, missing: str
) -> web.StreamResponse:
    """Send a file that was made with the video. missing: the sentence for a video without this file."""
    job = await find_job(request)
    await finished_video(request, job)
    path = path_of(request.app[keys.FILES], job.id)
    if not await asyncio.to_thread(path.is_file):
        raise NotFound(missing)
    return web.FileResponse(
        path,
        headers={
            "Content-Type": media_type,
            "Content-Disposition": attachment(Path(job.spec.file_name).with_suffix(suffix).name),
            "Cache-Control": "private, no-transform",
        },
    )


async def collected(request: web.Request) -> web.StreamResponse:
    """Mark a video as collected."""
    job = await find_job(request)
    await finished_video(request, job)
    job = await request.app[keys.RETENTION].collect(job.id)
    return answer(await shown(request, job))


async def delete(request: web.Request) -> web.StreamResponse:
    """Cancel or delete a job."""
    job = await find_job(request)
    queue = request.app[keys.QUEUE]
    if not job.final:
        try:
            job = await queue.cancel(job.id)
        except Conflict:
            # The job ended between the two calls, so DELETE now means: delete the job.
            job = await queue.store.get(job.id)
        else:
            return answer(await shown(request, job), status=200 if job.final else 202)
    await request.app[keys.RETENTION].delete(job.id)
    return web.Response(status=204)


def _state(request: web.Request) -> State | None:
    wanted = request.query.get("state")
    for state in STATES:
        if state == wanted:
            return state
    if wanted is not None:
        raise InvalidInput(f"state has to be one of {', '.join(STATES)}.", field="state")
    return None


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and 1 <= int(text) <= _MAX_PAGE):
        raise InvalidInput(f"limit has to be a number from 1 to {_MAX_PAGE}.", field="limit")
    return int(text)


_LOCATION = {"Location": "The job."}
_PAGING = (
    Parameter("state", "query", "Only jobs in this state.", {"type": "string", "enum": list(STATES)}),
    Parameter("limit", "query", "Jobs on a page.", {"type": "integer", "minimum": 1, "maximum": _MAX_PAGE}),
    Parameter("after", "query", "The last id of the previous page.", {"type": "string", "maxLength": 64}),
)
_KEEP = Parameter(
    "Lipsync-Keep",
    "header",
    "`true`: this download does not count as collected, and the video keeps its full time on the server.",
    {"type": "string", "enum": ["true"]},
)
_RANGE = Parameter("Range", "header", "A part of the file, for example `bytes=0-1023`.", {"type": "string"})

ROUTES = (
    Route(
        "POST",
        "/v1/jobs",
        submit,
        "Make a job",
        answers={202: Answer("The job was accepted.", schemas.Job, headers=_LOCATION)},
        problems=(400, 409, 413, 415, 422, 429, 507),
        parameters=(IDEMPOTENCY_KEY,),
        forms={"multipart/form-data": job_form(), "application/json": schemas.JobRequest},
    ),
    Route(
        "GET",
        "/v1/jobs",
        list_jobs,
        "List jobs, newest first",
        answers={200: Answer("A page of jobs.", schemas.JobList)},
        problems=(422,),
        parameters=_PAGING,
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}",
        show,
        "Read a job",
        answers={200: Answer("The job.", schemas.Job)},
        problems=(404, 410),
        parameters=(JOB_ID,),
    ),
    Route(
        "DELETE",
        "/v1/jobs/{job_id}",
        delete,
        "Cancel a job, or delete one that has ended",
        answers={
            200: Answer("It was waiting and is cancelled.", schemas.Job),
            202: Answer("It is running and will stop.", schemas.Job),
            204: Answer("It had ended; its video and data are deleted.", empty=True),
        },
        problems=(404, 409, 410),
        parameters=(JOB_ID,),
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}/video",
        video,
        "Fetch the video",
        answers=answers_of_file("The video.", "video/mp4", headers={"ETag": "Changes never."}),
        problems=(404, 409, 410),
        parameters=(JOB_ID, _KEEP, _RANGE),
        description="A download of the whole file counts as collected. Also answers HEAD.",
    ),
    *(
        Route(
            "GET",
            f"/v1/jobs/{{job_id}}/captions.{kind}",
            handler,
            f"Fetch the captions as {kind.upper()}",
            answers={200: Answer("The captions.", media_type=CAPTION_TYPES[kind])},
            problems=(404, 409, 410),
            parameters=(JOB_ID,),
        )
        for kind, handler in ((CAPTION_FILES[0], captions_srt), (CAPTION_FILES[1], captions_vtt))
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}/sheet",
        sheet,
        "Fetch the contact sheet of the check",
        answers={200: Answer("The sheet: pictures, the mouth's curve and the findings.", media_type=SHEET_TYPE)},
        problems=(404, 409, 410),
        parameters=(JOB_ID,),
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}/speech",
        speech,
        "Fetch the sound that was made from the text",
        answers={200: Answer("The sound of the video, a WAV file.", media_type=SPEECH_TYPE)},
        problems=(404, 409, 410),
        parameters=(JOB_ID,),
    ),
    Route(
        "POST",
        "/v1/jobs/{job_id}/collected",
        collected,
        "Mark the video as collected",
        answers={200: Answer("The job, with the time at which its video is deleted.", schemas.Job)},
        problems=(404, 409, 410),
        parameters=(JOB_ID,),
    ),
)

"""Links to one finished video that work without the token until they expire, for agents, mails and chats.

Knows the signer and the answers about jobs. Holds no state.
"""

from datetime import UTC, datetime
from urllib.parse import urlencode

from aiohttp import web

from lipsync_server.errors import InvalidInput, NotFound
from lipsync_server.http import keys
from lipsync_server.http.answers import schemas
from lipsync_server.http.answers.file_names import inline
from lipsync_server.http.callers.links import DEFAULT_LINK_S, MAX_LINK_S
from lipsync_server.http.routes.job_answers import find_job, finished_video, job_link, video_answer
from lipsync_server.http.routing import JOB_ID, Answer, Parameter, Route, answer, answers_of_file

_MAX_DIGITS = 7


async def make_link(request: web.Request) -> web.StreamResponse:
    """Make a link to a video that needs no token."""
    job = await find_job(request)
    await finished_video(request, job)
    query, expires = request.app[keys.LINKS].query(
        job.id, expires_in_s=_expires_in_s(request), collects=_collects(request)
    )
    path = f"{job_link(request, job, '/shared')}?{urlencode(query)}"
    public = request.app[keys.ADDRESS].url
    # The public address may end in a path, which `path` begins with as well.
    origin = "/".join(public.split("/")[:3]) if public else f"{request.scheme}://{request.host}"
    return answer(
        schemas.VideoLink(
            url=origin + path, path=path, is_public=bool(public), expires_at=datetime.fromtimestamp(expires, UTC)
        ),
        headers={"Cache-Control": "no-store"},
    )


async def shared(request: web.Request) -> web.StreamResponse:
    """The video behind a link."""
    job_id = request.match_info["job_id"]
    # Checked before the database is read, so that a caller without a link cannot learn which jobs exist.
    collects = request.app[keys.LINKS].check(job_id, request.query)
    job = await request.app[keys.QUEUE].store.get(job_id)
    if job is None:
        raise NotFound("The job of this link is no longer on the server.")
    headers = {
        "Content-Disposition": inline(job.spec.file_name),
        # The address is the permission, so it is not sent on to another page.
        "Referrer-Policy": "no-referrer",
    }
    return await video_answer(request, job, collects=collects, headers=headers)


def _expires_in_s(request: web.Request) -> int:
    text = request.query.get("expires_in_s", str(DEFAULT_LINK_S))
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and 1 <= int(text) <= MAX_LINK_S):
        raise InvalidInput(
            f"expires_in_s has to be a whole number of seconds from 1 to {MAX_LINK_S} (7 days).", field="expires_in_s"
        )
    return int(text)


def _collects(request: web.Request) -> bool:
    text = request.query.get("collects", "false")
    if text not in ("true", "false"):
        raise InvalidInput("collects has to be true or false.", field="collects")
    return text == "true"


_COLLECTS: dict[str, object] = {"type": "string", "enum": ["true", "false"]}

ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{job_id}/link",
        make_link,
        "Make a link that shows the video without the token",
        answers={200: Answer("The link.", schemas.VideoLink)},
        problems=(404, 409, 410, 422),
        parameters=(
            JOB_ID,
            Parameter(
                "expires_in_s",
                "query",
                f"Seconds until the link ends; {DEFAULT_LINK_S} (one day) if left out. The video may end earlier.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LINK_S},
            ),
            Parameter("collects", "query", "`true`: a whole download through the link counts as collected.", _COLLECTS),
        ),
        description="Everybody who has the link can see this one video until the link expires.",
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}/shared",
        shared,
        "Fetch the video by a link",
        answers=answers_of_file("The video.", "video/mp4"),
        problems=(403, 404, 409, 410, 503),
        parameters=(
            JOB_ID,
            Parameter("expires", "query", "From the link.", {"type": "string"}, required=True),
            Parameter("signature", "query", "From the link.", {"type": "string"}, required=True),
            Parameter("collects", "query", "From the link.", _COLLECTS),
            Parameter("Range", "header", "A part of the file, for example `bytes=0-1023`.", {"type": "string"}),
        ),
        description="The address comes from GET /v1/jobs/{job_id}/link. Also answers HEAD.",
        public=True,
    ),
)

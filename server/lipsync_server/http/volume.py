"""Answer 503 with the reason to requests that would wait for ever, because the data folder's volume is stuck.

Knows the watch over the volume (jobs/volume.py). A request that waits for the end of a job, or whose answer has begun,
continues: it needs the volume again only when the job has ended.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from lipsync_server.errors import VolumeStuck
from lipsync_server.http import keys
from lipsync_server.jobs.files import disk_errors
from lipsync_server.jobs.volume import is_gone, volume_stuck

log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 1.0
_N_POLLS = 2
"""Polls of a stuck volume after which a request is ended.

A request that needs no file is answered between two polls.
"""
_MAY_WAIT = web.RequestKey("may_wait", bool)
_MAY_STOP = web.RequestKey("may_stop", bool)


@web.middleware
async def volume_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the handler. Raises VolumeStuck if the volume is stuck while the handler waits for it."""
    volume = request.app.get(keys.VOLUME)
    if volume is None:
        return await handler(request)
    if request.method == "POST" and (trouble := volume.trouble):
        raise trouble  # before a body is sent for nothing
    work = asyncio.ensure_future(handler(request))
    try:
        n_polls = 0
        while not (await asyncio.wait({work}, timeout=_POLL_INTERVAL_S))[0]:
            trouble = None if request.get(_MAY_WAIT) else volume.trouble
            n_polls = n_polls + 1 if trouble else 0
            if trouble and n_polls >= _N_POLLS:
                raise _given_up(request, work, trouble)
        with disk_errors():
            return work.result()
    except (sqlite3.OperationalError, OSError) as error:
        if not is_gone(error):
            raise
        raise volume.trouble or volume_stuck(f"cannot be used ({error})") from error
    except asyncio.CancelledError:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise


def waits_for_a_job(request: web.Request) -> None:
    """Mark the request: it now waits for a job, or its answer has begun, so a stuck volume does not end it."""
    request[_MAY_WAIT] = True


async def note_begun_answer(request: web.Request, response: web.StreamResponse) -> None:
    """The signal on_response_prepare: a begun answer cannot become a problem document."""
    waits_for_a_job(request)


@contextmanager
def changes_nothing(request: web.Request) -> Iterator[None]:
    """While the block runs, the request has changed nothing yet and may be stopped."""
    request[_MAY_STOP] = True
    try:
        yield
    finally:
        request[_MAY_STOP] = False


def _given_up(request: web.Request, work: "asyncio.Task[web.StreamResponse]", trouble: VolumeStuck) -> VolumeStuck:
    """The answer to a request whose handler still waits for the volume.

    A handler that only reads is cancelled. A handler that may be writing is left to end when the volume answers again.
    """
    abandoned = request.app[keys.ABANDONED]
    abandoned.add(work)
    work.add_done_callback(abandoned.discard)
    work.add_done_callback(_read_error)
    if request.method in ("GET", "HEAD") or request.get(_MAY_STOP):
        work.cancel()
        return trouble
    return VolumeStuck(
        f"{trouble.detail} This request may still be carried out then: look at GET /v1/jobs before you send it again, "
        "or send it again with its Idempotency-Key.",
        retry_after_s=trouble.retry_after_s,
    )


def _read_error(work: "asyncio.Task[web.StreamResponse]") -> None:
    """Log the error of an abandoned handler; asyncio would report an error that nobody has read."""
    if not work.cancelled() and (error := work.exception()):
        log.warning("a request that the volume held up ended with %s: %s", type(error).__name__, error)

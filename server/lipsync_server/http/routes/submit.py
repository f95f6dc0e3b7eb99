"""Turns a request with inputs into an accepted job, for both POST /lipsync and POST /v1/jobs.

Order matters: cheap refusals first (queue, disk, length), then the upload, then the checks of its content, then the
job. A refused request leaves no file on disk. Knows the queue and the form; does not know the form of the answers.
"""

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web

from lipsync_server.errors import BadRequest, Conflict
from lipsync_server.http import keys
from lipsync_server.http.answers.file_names import safe_name, video_name
from lipsync_server.http.answers.schemas import JobOptions
from lipsync_server.http.callers.addresses import checked_url
from lipsync_server.http.callers.auth import CALLER
from lipsync_server.http.inputs.probe import caller_has_left
from lipsync_server.http.inputs.uploads import Form, check_length, receive, send_continue
from lipsync_server.http.volume import changes_nothing
from lipsync_server.jobs import files as job_files
from lipsync_server.jobs.database.store import Idempotency, Store
from lipsync_server.jobs.model import Job, JobSpec
from lipsync_server.jobs.volume import is_gone

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Accepted:
    """The job of a request. replayed: an earlier request with the same Idempotency-Key made this job."""

    job: Job
    replayed: bool


async def accept(request: web.Request, *, default_name: str | None = None) -> Accepted:
    """Receive the inputs, check them and queue a job. default_name: the video's name unless the caller sends one."""
    app = request.app
    settings, queue, files = app[keys.SETTINGS], app[keys.QUEUE], app[keys.FILES]
    key = _idempotency_key(request)
    owner = request[CALLER].name
    if key is None or await queue.store.find_key(owner, key) is None:
        await queue.check_room()
    length = check_length(request, settings)
    await asyncio.to_thread(files.check_space, length)
    with app[keys.SLOTS].take():
        folder = await asyncio.to_thread(files.new_incoming)
        try:
            await send_continue(request)
            with changes_nothing(request):
                form = await receive(request, folder, settings, app[keys.FETCHER])
            app[keys.METRICS].bytes_in.inc(sum(taken.n_bytes for taken in form.files.values()))
            async with app[keys.KEY_LOCKS].hold(owner, key):
                return await _accept_form(request, form, folder, owner=owner, key=key, default_name=default_name)
        finally:
            await asyncio.to_thread(job_files.remove, folder)


async def _accept_form(
    request: web.Request, form: Form, folder: Path, *, owner: str, key: str | None, default_name: str | None
) -> Accepted:
    """Check the received form and queue the job, or find the job of an earlier request with the same key."""
    app = request.app
    queue, files = app[keys.QUEUE], app[keys.FILES]
    if "callback_url" in form.values:
        form.values["callback_url"] = checked_url(form.values["callback_url"], "callback_url")
    options = JobOptions.model_validate(form.values)
    idempotency = None if key is None else Idempotency(owner, key, _fingerprint(form, options))
    if idempotency is not None and (job := await _replay(queue.store, idempotency)):
        return Accepted(job, replayed=True)
    callback_url = None if options.callback_url is None else str(options.callback_url)
    if callback_url is not None:
        await app[keys.FETCHER].check(callback_url, "callback_url")
    image_name = safe_name(form.files["image"].name)
    spec = JobSpec(
        engine=options.engine,
        image_name=image_name,
        audio_name=job_files.SPEECH_FILE if options.is_spoken else safe_name(form.files["audio"].name),
        second_audio_name=safe_name(form.files["second_audio"].name) if "second_audio" in form.files else None,
        file_name=video_name(options.file_name or default_name, form.files["image"].name),
        duration_s=0.0,
        ask=options.ask,
        owner=owner,
        callback_url=callback_url,
    )
    spec = await app[keys.PLANNER].check(spec)
    probed = await app[keys.PROBER].probe(form.files, spec.ask, caller_left=lambda: caller_has_left(request))
    spec = replace(spec, duration_s=probed.duration_s, warnings=probed.warnings)
    job_id = queue.new_id()
    await asyncio.to_thread(files.adopt, folder, job_id)
    try:
        job = await queue.submit(job_id, spec, idempotency)
    except BaseException as error:
        # A disk that fails leaves open whether the job was written, and a job needs its files.
        if not is_gone(error):
            await asyncio.to_thread(files.remove, job_id)
        raise
    return Accepted(job, replayed=False)


async def _replay(store: Store, wanted: Idempotency) -> Job | None:
    """The job that an earlier request made with this key. Raises Conflict when the requests differ."""
    found = await store.find_key(wanted.owner, wanted.key)
    if found is None:
        return None
    fingerprint, job_id = found
    if fingerprint != wanted.fingerprint:
        raise Conflict(
            "This Idempotency-Key was used for a request with other contents. Use a new key for a new video.",
            field="Idempotency-Key",
        )
    return await store.get(job_id)


def _idempotency_key(request: web.Request) -> str | None:
    """The header Idempotency-Key, or None. Raises BadRequest for a key that is too long or not printable."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key has to be 1 to 255 printable ASCII characters without spaces.")
    return key


def _fingerprint(form: Form, options: JobOptions) -> str:
    """A digest that equal requests share: it covers the options and the files' contents, not the files' names."""
    content = {name: taken.sha256 for name, taken in sorted(form.files.items())}
    text = json.dumps([content, options.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

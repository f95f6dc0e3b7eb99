"""The body of a callback: the ended job as JSON, with links that start with the server's public address."""

from collections.abc import Callable

from lipsync_server.cloud.address import PublicAddress
from lipsync_server.http import schemas
from lipsync_server.http.wire import job_view
from lipsync_server.jobs.model import Job


def callback_body(address: PublicAddress) -> Callable[[Job], bytes]:
    """The function that makes the body for an ended job; the address may still change while the server runs."""

    def body(job: Job) -> bytes:
        view = job_view(job, None, address.url)
        callback = schemas.Callback.model_validate({"event": f"job.{job.state}", "job": view})
        return callback.model_dump_json().encode()

    return body

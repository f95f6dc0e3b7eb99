"""The body of a callback: the ended job as JSON, with links that start with the server's public address."""

from collections.abc import Callable

from lipsync_server.cloud.this_machine.address import PublicAddress
from lipsync_server.http.answers import schemas
from lipsync_server.http.answers.wire import job_view
from lipsync_server.jobs.model import Job


def callback_body(address: PublicAddress) -> Callable[[Job], bytes]:
    """A function that makes the body for an ended job. It reads the address at each call: a tunnel changes it."""

    def body(job: Job) -> bytes:
        view = job_view(job, None, address.url)
        callback = schemas.Callback.model_validate({"event": f"job.{job.state}", "job": view})
        return callback.model_dump_json().encode()

    return body

"""The exceptions whose message a user reads: each states the problem and the remedy.

Every error that may reach a person derives from LipsyncError. `code` is stable and may be matched by programs,
`status` is the HTTP status of the answer, `detail` is the sentence for the user. This module knows nothing else of
HTTP: http/answers/problem.py makes the RFC 9457 document, cli/console.py prints the sentence.
"""

import re
from functools import cache
from pathlib import Path
from typing import ClassVar

# Top-level folders of usual systems and containers. They recognise a path in a message from a cluster's machine.
_USUAL_ROOTS = frozenset(
    ("data", "etc", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "usr", "var", "weights", "workspace")
)
_ABSOLUTE = re.compile(r"(?<![\w/:.~%+-])/([\w.+@~-]+)((?:/[\w.+@~-]+)+)")


class LipsyncError(Exception):
    """Base class of every error whose sentence a user reads."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on the server"
    before_decoding: bool = False
    """Whether a file was refused before any decoder read it, so that its process is as good as before."""

    def __init__(self, detail: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def public_detail(self) -> str:
        """The sentence for callers of a server: a file is named without its folders."""
        return _ABSOLUTE.sub(_last_part, self.detail)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are pickled to cross the pipe from the worker process. Exception's pickling loses keyword arguments.
        return _rebuild, (type(self), self.detail, self.field, self.retry_after_s)


@cache
def _roots() -> frozenset[str]:
    """Names of folders with which an absolute path begins."""
    return _USUAL_ROOTS | frozenset(folder.name for folder in Path("/").iterdir())


def _last_part(path: "re.Match[str]") -> str:
    """The name of the file at an absolute path. Other text of that form, such as a URL, does not change."""
    return path[2].rpartition("/")[2] if path[1] in _roots() else path[0]


def _rebuild(cls: type[LipsyncError], detail: str, field: str | None, retry_after_s: float | None) -> LipsyncError:
    """Make an error again from its pickled values."""
    return cls(detail, field=field, retry_after_s=retry_after_s)


class InvalidInput(LipsyncError):
    """A field is missing, malformed or out of range."""

    code, status, title = "invalid_input", 422, "The request cannot be used"


class BadRequest(LipsyncError):
    """The request itself is malformed (not multipart, broken JSON, a missing part)."""

    code, status, title = "bad_request", 400, "The request is malformed"


class UnsupportedMedia(LipsyncError):
    """A file that is not a picture or a recording this server reads."""

    code, status, title = "unsupported_media", 415, "This kind of file cannot be read"


class InvalidImage(LipsyncError):
    """A picture that is damaged or too large in pixels."""

    code, status, title = "invalid_image", 422, "The picture cannot be used"


class NoFace(InvalidImage):
    """No face was found, or the requested face does not exist."""

    code, title = "no_face", "No face was found in the picture"


class InvalidAudio(LipsyncError):
    """A recording that is damaged, too short, too long or has no sound."""

    code, status, title = "invalid_audio", 422, "The recording cannot be used"


class TooLarge(LipsyncError):
    """The upload is larger than the configured limit."""

    code, status, title = "too_large", 413, "The upload is too large"


class Unauthorized(LipsyncError):
    """The request has no valid token."""

    code, status, title = "unauthorized", 401, "A valid token is needed"


class Forbidden(LipsyncError):
    """The token is valid, and does not permit this request."""

    code, status, title = "forbidden", 403, "This is not allowed"


class NotFound(LipsyncError):
    """The path or the job does not exist."""

    code, status, title = "not_found", 404, "Not found"


class Conflict(LipsyncError):
    """The job's state does not allow this request, or the Idempotency-Key was used for another request."""

    code, status, title = "conflict", 409, "Not possible now"


class Gone(LipsyncError):
    """The video existed and has expired or was deleted."""

    code, status, title = "gone", 410, "No longer here"


class QueueFull(LipsyncError):
    """The largest number of jobs is waiting already."""

    code, status, title = "queue_full", 429, "The queue is full"


class FetchFailed(LipsyncError):
    """An input's URL could not be fetched, or leads to an address that the server must not reach."""

    code, status, title = "fetch_failed", 422, "The file behind the URL could not be fetched"


class DiskFull(LipsyncError):
    """A disk has too little space for this job or download."""

    code, status, title = "disk_full", 507, "The server's disk is full"


class ServerDiskFull(DiskFull):
    """The disk of the server is full, not the disk of a worker's machine, so another machine would not help."""


class NotReady(LipsyncError):
    """The engine is still loading, or its weights are missing."""

    code, status, title = "not_ready", 503, "The server is not ready yet"


class VolumeStuck(NotReady):
    """The volume that holds jobs and videos does not answer."""

    code, title = "volume_stuck", "The server's data volume does not answer"


class EngineUnavailable(LipsyncError):
    """The requested engine cannot run here (no weights, no GPU, not installed)."""

    code, status, title = "engine_unavailable", 422, "This engine cannot run here"


class OutOfMemory(LipsyncError):
    """The GPU's memory ran out."""

    code, status, title = "out_of_memory", 500, "The GPU ran out of memory"


class HostOutOfMemory(OutOfMemory):
    """Host memory (not the GPU's memory) is too small for the model."""

    title = "The machine has too little memory"


class WeightsError(LipsyncError):
    """A weights file is missing, damaged or of another model. The message names the file and the tensor."""

    code, status, title = "weights", 500, "The engine's weights cannot be used"


class WorkerCrashed(LipsyncError):
    """The worker process ended during a render."""

    code, status, title = "worker_crashed", 500, "The worker died while rendering"


class NodeLost(WorkerCrashed):
    """The machine was lost during a render. The loss does not count as a crash of the job, which did not cause it."""


class StoreFailed(LipsyncError):
    """LIPSYNC_STORE cannot be used, or refused a finished video."""

    code, status, title = "store_failed", 502, "The video could not be handed over"


class TimeLimit(LipsyncError):
    """The job ran for longer than LIPSYNC_JOB_TIMEOUT_S."""

    code, status, title = "time_limit", 500, "The job ran past its time limit"


class Cancelled(LipsyncError):
    """The job or the command was cancelled. The job ends as cancelled, not as failed."""

    code, status, title = "cancelled", 409, "The job was cancelled"

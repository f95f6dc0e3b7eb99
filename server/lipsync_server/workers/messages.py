"""The messages between the server and a worker process. Plain frozen data.

`serial` is the number of a render of one worker, so that a late message of an earlier render does not count for the
current one.
"""

from dataclasses import dataclass

from lipsync_server.engines.registry import Registry
from lipsync_server.errors import LipsyncError
from lipsync_server.settings import RenderSettings
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask


@dataclass(frozen=True)
class Setup:
    """Server to worker, the first message. module_path: the server's sys.path, so that both find the same engines."""

    settings: RenderSettings
    registry: Registry
    module_path: tuple[str, ...]


@dataclass(frozen=True)
class Load:
    """Server to worker: load this engine and keep it loaded."""

    engine: str


@dataclass(frozen=True)
class Render:
    """Server to worker: render this task."""

    serial: int
    task: RenderTask


@dataclass(frozen=True)
class Cancel:
    """Server to worker: stop render `serial` at its next cancellation check."""

    serial: int


@dataclass(frozen=True)
class Started:
    """Worker to server, the first message: the worker accepts tasks."""


@dataclass(frozen=True)
class Alive:
    """Worker to server, every few seconds: a heartbeat, which proves that its process is not stuck."""


@dataclass(frozen=True)
class Loading:
    """Worker to server, at intervals: the progress of loading an engine."""

    engine: str
    stage: str
    done: float
    total: float


@dataclass(frozen=True)
class Loaded:
    """Worker to server: the engine is loaded."""

    engine: str


@dataclass(frozen=True)
class LoadFailed:
    """Worker to server: the engine could not be loaded."""

    engine: str
    error: LipsyncError


@dataclass(frozen=True)
class Progress:
    """Worker to server, at intervals: the progress of a render."""

    serial: int
    event: ProgressEvent


@dataclass(frozen=True)
class Finished:
    """Worker to server: the render has succeeded. holds: the engine that is now loaded, "" when none."""

    serial: int
    outcome: RenderOutcome
    holds: str


@dataclass(frozen=True)
class Failed:
    """Worker to server: the render has failed or was cancelled. holds: as in Finished."""

    serial: int
    error: LipsyncError
    holds: str


@dataclass(frozen=True)
class LogLine:
    """Worker to server: a log record for the server's handlers, with message and trace as text."""

    logger: str
    level: int
    message: str
    created: float
    trace: str | None


FromWorker = Started | Alive | Loading | Loaded | LoadFailed | Progress | Finished | Failed | LogLine
ToWorker = Setup | Load | Render | Cancel

"""The messages between the server and a worker process. Plain frozen data.

`serial` numbers the renders of one worker, so that a late message of an earlier render is never taken for another's.
"""

from dataclasses import dataclass

from lipsync_server.engines.registry import Registry
from lipsync_server.errors import LipsyncError
from lipsync_server.settings import RenderSettings
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask


@dataclass(frozen=True)
class Setup:
    """Server to worker, first. `module_path` is the server's sys.path, so both find the same engines."""

    settings: RenderSettings
    registry: Registry
    module_path: tuple[str, ...]


@dataclass(frozen=True)
class Load:
    """Server to worker: load this engine and keep it."""

    engine: str


@dataclass(frozen=True)
class Render:
    serial: int
    task: RenderTask


@dataclass(frozen=True)
class Cancel:
    serial: int


@dataclass(frozen=True)
class Started:
    """Worker to server, first: it takes tasks."""


@dataclass(frozen=True)
class Alive:
    """Worker to server, every few seconds whatever it is doing: its process runs and is not stuck."""


@dataclass(frozen=True)
class Loading:
    engine: str
    stage: str
    done: float
    total: float


@dataclass(frozen=True)
class Loaded:
    engine: str


@dataclass(frozen=True)
class LoadFailed:
    engine: str
    error: LipsyncError


@dataclass(frozen=True)
class Progress:
    serial: int
    event: ProgressEvent


@dataclass(frozen=True)
class Finished:
    """`holds`: the engine that the worker now holds loaded, "" when none."""

    serial: int
    outcome: RenderOutcome
    holds: str


@dataclass(frozen=True)
class Failed:
    serial: int
    error: LipsyncError
    holds: str


@dataclass(frozen=True)
class LogLine:
    """A record of the worker's log for the server's own handlers: message and trace are text already."""

    logger: str
    level: int
    message: str
    created: float
    trace: str | None


FromWorker = Started | Alive | Loading | Loaded | LoadFailed | Progress | Finished | Failed | LogLine
ToWorker = Setup | Load | Render | Cancel

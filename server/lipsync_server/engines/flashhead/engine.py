"""FlashHead behind the engine interface: load, generate, close.

Passes a request to a job (job.py). Does not know how a job runs, nor how models are loaded (loading/models.py).
"""

from collections.abc import Iterator

from lipsync_server.engines.base import FPS, Frames, RenderContext, RenderRequest, no_report
from lipsync_server.engines.flashhead.job import Job, room_for
from lipsync_server.engines.flashhead.loading.models import Models, Report
from lipsync_server.engines.landmarks import landmarker
from lipsync_server.engines.progress import reporting_to
from lipsync_server.engines.second_attempt import with_room
from lipsync_server.errors import InvalidInput
from lipsync_server.settings import EngineSettings


class FlashHeadEngine:
    """The model on one GPU or on the CPU. One request at a time."""

    name = "flashhead"

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._models: Models | None = None

    @property
    def models(self) -> Models:
        """The loaded models."""
        assert self._models is not None, "load() comes first"
        return self._models

    def load(self, report: Report = no_report) -> None:
        """Load the variant whose files are here, pro if both are. A second call does nothing."""
        if self._models is None:
            models = Models(self._settings)
            with_room(lambda: models.load(None, report), room_for(models.make_room))
            self._models = models
        landmarker()  # loaded now, and not while the first job waits

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Frames of the video, a few at a time: uint8 RGB (n, H, W, 3). A resume point is saved after each window."""
        if request.fps != FPS:
            raise InvalidInput(f"FlashHead makes {FPS} frames a second, not {request.fps}.", field="fps")
        if self._models is None:
            self.load(reporting_to(context))
        yield from Job(self.models, request, context).frames()

    def close(self) -> None:
        """Free the memory of all models."""
        if self._models is not None:
            self._models.close()
        self._models = None


def create(settings: EngineSettings) -> FlashHeadEngine:
    """The engine, not loaded yet; the registry calls this."""
    return FlashHeadEngine(settings)

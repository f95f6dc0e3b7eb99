"""InfiniteTalk behind the engine interface: load, generate, close.

Knows which models to load before the first job, and makes a job of each request (job.py). Does not know how a job runs,
nor how models are loaded (loading/models.py).
"""

import contextlib
from collections.abc import Iterator

from lipsync_server.engines.base import FPS, Frames, RenderContext, RenderRequest, Report, no_report
from lipsync_server.engines.infinitetalk.flashtalk import wants_flashtalk
from lipsync_server.engines.infinitetalk.job import Job
from lipsync_server.engines.infinitetalk.loading.models import Models
from lipsync_server.engines.infinitetalk.loading.planner import Need
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.out_of_memory import room_for
from lipsync_server.engines.progress import reporting_to
from lipsync_server.engines.second_attempt import with_room
from lipsync_server.errors import InvalidInput
from lipsync_server.settings import EngineSettings

# The size that the first transformer is loaded for, before any job has come: a square picture.
_USUAL_PIXELS = {"480p": 640 * 640, "720p": 960 * 960}


class InfiniteTalkEngine:
    """The model on one GPU or on the CPU. `load` takes minutes. One request at a time."""

    name = "infinitetalk"

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._models: Models | None = None

    def load(self, report: Report = no_report) -> None:
        """Load the encoders and the transformer that the settings' preset uses; idempotent."""
        if self._models is None:
            self._models = self._loaded(report)

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Frames of the video, a few at a time: uint8 RGB (n, H, W, 3). A resume point is saved after each window."""
        if request.fps != FPS:
            raise InvalidInput(f"InfiniteTalk makes {FPS} frames a second, not {request.fps}.", field="fps")
        if self._models is None:
            self._models = self._loaded(reporting_to(context))
        with contextlib.closing(Job(self._models, self._settings, request, context)) as job:
            yield from job.frames()

    def close(self) -> None:
        """Free the memory of all models."""
        if self._models is not None:
            self._models.close()
            self._models = None

    def _loaded(self, report: Report) -> Models:
        models = Models(self._settings)
        usual = Options(preset=self._settings.preset, resolution=self._settings.resolution)
        flashtalk = wants_flashtalk(self._settings, usual, people="single", still=True)
        need = Need("single", usual.sampling.distilled, _USUAL_PIXELS[usual.resolution], 3, flashtalk=flashtalk)

        def load() -> None:
            models.refuse_what_does_not_fit(need)
            models.load_encoders(report)
            models.load_transformer(need, report)

        try:
            with_room(load, room_for(lambda: models.make_room(need, report), usual))
        except BaseException:
            models.close()
            raise
        return models

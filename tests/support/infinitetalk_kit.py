"""Requests to the engine with tiny model files, with the smallest pictures that it accepts."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Engine, Frames, RenderContext, RenderRequest
from lipsync_server.engines.infinitetalk import engine
from lipsync_server.engines.infinitetalk.loading.models import Models
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.settings import EngineSettings

# The fewest steps and the smallest windows, so that three windows take seconds.
QUICK: dict[str, Any] = {"preset": "fast", "steps": 1, "window_frames": 13, "motion_frames": 5}


def stopped_at(words: str) -> Callable[[RecordingContext], bool]:
    """For RecordingContext.stop: whether the last note has these words."""
    return lambda context: bool(context.notes) and words in context.notes[-1]


def create(settings: EngineSettings) -> InfiniteTalkEngine:
    """The engine as the product makes it, for one GPU or the CPU."""
    made = engine.create(settings)
    assert isinstance(made, InfiniteTalkEngine)
    return made


def models_of(engine: InfiniteTalkEngine) -> Models:
    """The models that the engine has loaded."""
    assert engine._models is not None
    return engine._models


def started(engine: Engine, request: RenderRequest, context: RenderContext) -> Generator[Frames]:
    """The engine's batches after the first of them, which can be closed."""
    batches = engine.generate(request, context)
    assert isinstance(batches, Generator)
    next(batches)
    return batches


def request_for(
    duration_s: float, *, second: bool = False, picture: Frames | None = None, **options: Any
) -> RenderRequest:
    rng = np.random.default_rng(5)
    speech = (rng.standard_normal(round(duration_s * 16000)) * 0.1).astype(np.float32)
    if picture is None:
        picture = rng.integers(0, 255, (64, 200, 3), dtype=np.uint8)
    return RenderRequest(
        picture=picture,
        speech=speech,
        duration_s=duration_s,
        options=Options(**{**QUICK, **options}),
        prompt="a person talks",
        second_speech=speech[::-1].copy() if second else None,
    )

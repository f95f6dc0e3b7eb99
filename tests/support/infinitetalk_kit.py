"""Requests to the engine with tiny model files, with the smallest pictures that it takes."""

from collections.abc import Callable

import numpy as np
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Frames, RenderRequest
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options

# The fewest steps and the smallest windows, so that three windows take seconds.
QUICK = {"preset": "fast", "steps": 1, "window_frames": 13, "motion_frames": 5}


def stopped_at(words: str) -> Callable[[RecordingContext], bool]:
    """For RecordingContext.stop: whether the last note has these words."""
    return lambda context: bool(context.notes) and words in context.notes[-1]


def request_for(
    duration_s: float, *, second: bool = False, picture: Frames | None = None, **options: object
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


def frames_of(engine: InfiniteTalkEngine, request: RenderRequest, context: RecordingContext) -> Frames:
    return np.concatenate(list(engine.generate(request, context)))

"""The whole video of an engine as one array, for the tests of every engine."""

import numpy as np
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Engine, Frames, RenderRequest


def frames_of(engine: Engine, request: RenderRequest, context: RecordingContext | None = None) -> Frames:
    """All frames that `engine` makes for `request`: uint8 RGB (n, H, W, 3). context: records progress and warnings."""
    return np.concatenate(list(engine.generate(request, context or RecordingContext())))

"""The preview's frames as they are with the good seed, flickering with the seed before it, black with every other."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from lipsync_server.engines.base import Frames, RenderContext, RenderRequest, Report, no_report
from lipsync_server.engines.preview import engine as preview
from lipsync_server.engines.preview.options import Options as PreviewOptions
from lipsync_server.settings import EngineSettings

from takes.options import Options


class TakesEngine:
    name = "takes"

    def __init__(self, settings: EngineSettings) -> None:
        self._preview = preview.create(settings)

    def load(self, report: Report = no_report) -> None:
        self._preview.load(report)

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        options = request.options
        assert isinstance(options, Options)
        tried = context.scratch / f"tried-{options.seed}"
        dies = options.seed == options.die_seed and (options.every_try or not tried.exists())
        tried.touch()
        calm = replace(request, options=PreviewOptions(seed=options.seed))
        done = 0
        for frames in self._preview.generate(calm, context):
            if done >= request.n_frames // 3:
                if dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                if options.seed == options.fail_seed:
                    raise RuntimeError("a tensor went missing")
            time.sleep(options.seconds_per_frame * len(frames))
            yield self._spoilt(frames, done, options.good_seed - options.seed)
            done += len(frames)

    def close(self) -> None:
        self._preview.close()

    def _spoilt(self, frames: Frames, first: int, distance: int) -> Frames:
        if distance == 0:
            return frames
        if distance == 1:
            gain = np.where((first + np.arange(len(frames))) % 2, 1.1, 0.9).reshape(-1, 1, 1, 1)
            return np.clip(frames * gain, 0, 255).astype(np.uint8)
        return np.zeros_like(frames)


def create(settings: EngineSettings) -> TakesEngine:
    return TakesEngine(settings)

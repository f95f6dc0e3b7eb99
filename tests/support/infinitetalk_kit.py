"""Requests and a context for the engine on the tiny checkpoint, with pictures as small as they get."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lipsync_server.engines.base import Frames, RenderRequest, ResumePoint, State
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options

# The fewest steps and the smallest windows, so that three windows take seconds.
QUICK = {"preset": "fast", "steps": 1, "window_frames": 13, "motion_frames": 5}


@dataclass
class Context:
    """Collects what the engine reports."""

    scratch: Path
    checkpoint: ResumePoint | None = None
    stop_at: Callable[[str], bool] = lambda note: False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: list[State] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.notes.append(f"{stage}: {note}")
        if stage == "generate":
            self.fractions.append(done / total)

    def cancelled(self) -> bool:
        return bool(self.notes) and self.stop_at(self.notes[-1])

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def save(self, state: State) -> None:
        self.saved.append(dict(state))


def request_for(duration_s: float, *, second: bool = False, picture: Frames | None = None, **options: object):
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


def frames_of(engine: InfiniteTalkEngine, request: RenderRequest, context: Context) -> Frames:
    return np.concatenate(list(engine.generate(request, context)))

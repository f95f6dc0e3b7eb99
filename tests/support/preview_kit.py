"""A worker's side of a render, and requests to render: what the preview engine's tests share."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lipsync_server.engines.base import Frames, RenderRequest, ResumePoint, Speech, State
from lipsync_server.engines.preview.engine import PreviewEngine
from lipsync_server.engines.preview.options import Options


@dataclass
class Recorder:
    """A worker's side of one render: what the engine reported, saved and warned about."""

    scratch: Path = Path()
    checkpoint: ResumePoint | None = None
    cancel_after: int | None = None
    reports: list[tuple[str, float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: list[State] = field(default_factory=list)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.reports.append((stage, done, total))

    def cancelled(self) -> bool:
        return self.cancel_after is not None and len(self.reports) > self.cancel_after

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def save(self, state: State) -> None:
        self.saved.append(state)


def hum(duration_s: float, seed: int = 0) -> Speech:
    """Sound with the rhythm of speech: four bursts a second of a voice-like tone, with pauses."""
    t = np.arange(int(duration_s * 16_000)) / 16_000
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 12))
    bursts = np.clip(np.sin(2 * np.pi * 2 * t), 0, 1) * (np.sin(2 * np.pi * 0.23 * t + seed) > -0.5)
    return (0.2 * voice * bursts).astype(np.float32)


def request(picture: Frames, duration_s: float, speech: Speech | None = None, **options: object) -> RenderRequest:
    speech = hum(duration_s) if speech is None else speech
    return RenderRequest(picture, speech, duration_s, Options(**options))


def render(engine: PreviewEngine, job: RenderRequest, recorder: Recorder | None = None) -> Frames:
    return np.concatenate(list(engine.generate(job, recorder or Recorder())))

"""The RenderContext of benchmarks and tests, which call an engine without a worker."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lipsync_server.engines.base import ResumePoint, State


def _never(context: "RecordingContext") -> bool:
    """Never stop the job."""
    return False


@dataclass
class RecordingContext:
    """A RenderContext that stores all reports of the engine.

    stop: returns whether the job must stop now; called with this context. stages: (stage, done, total) of every report.
    notes: the text of every report as "stage: note". saved: every state that the engine saved.
    """

    scratch: Path = Path()
    resume_point: ResumePoint | None = None
    stop: "Callable[[RecordingContext], bool]" = _never
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: list[State] = field(default_factory=list)

    @classmethod
    def stopping_at(cls, done: float, scratch: Path = Path()) -> Self:
        """A context that stops the job as soon as the stage "generate" reports at least `done`."""
        return cls(scratch, stop=lambda context: max(context.generated, default=-math.inf) >= done)

    @property
    def fractions(self) -> list[float]:
        """done / total of every report of the stage "generate"."""
        return [done / total for stage, done, total in self.stages if stage == "generate"]

    @property
    def generated(self) -> list[float]:
        """`done` of every report of the stage "generate"."""
        return [done for stage, done, _ in self.stages if stage == "generate"]

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.stages.append((stage, done, total))
        self.notes.append(f"{stage}: {note}")

    def cancelled(self) -> bool:
        return self.stop(self)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def save(self, state: State) -> None:
        self.saved.append(dict(state))

"""What a worker offers an engine, for tests."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from lipsync_server.engines.base import ResumePoint


@dataclass
class Context:
    """What a worker offers; remembers what the engine told it."""

    scratch: Path = Path()
    checkpoint: ResumePoint | None = None
    cancel_after: float = math.inf
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: list[dict[str, object]] = field(default_factory=list)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.stages.append((stage, done, total))

    def cancelled(self) -> bool:
        return any(stage == "generate" and done >= self.cancel_after for stage, done, _ in self.stages)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def save(self, state: dict[str, object]) -> None:
        self.saved.append(state)

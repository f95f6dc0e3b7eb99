"""The result of one check, and of all of them."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]
"""`note`: it works, and could be better. `problem`: something does not work until it is changed."""


@dataclass(frozen=True)
class Finding:
    """name: of the subject, one word or two. detail: the state of it. advice: one sentence what to change, or ""."""

    name: str
    state: State
    detail: str
    advice: str = ""

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        return " ".join(filter(None, (f"{self.name}: {self.detail}", self.advice)))


@dataclass(frozen=True)
class Report:
    """All findings. engine: the one that renders here unless another is asked for, "" where none can."""

    engine: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state == "problem")

"""The result of one check, and of all of them."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]
"""The three results of a check.

ok: the subject works. note: the subject works, but could be better. problem: a feature does not work until the user
changes something.
"""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    name: of the subject, one word or two. detail: the state of the subject. advice: one sentence with the change that
    the user should make, or "".
    """

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
    """All findings. engine: the engine that renders here unless a job names another; "" if none can."""

    engine: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings with the state `problem`."""
        return tuple(finding for finding in self.findings if finding.state == "problem")

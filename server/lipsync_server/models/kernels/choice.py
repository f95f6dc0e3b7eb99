"""Chooses the fastest of several ways to compute the same thing, by timing each way on this machine's own card.

A table of cards cannot know a card's clock, cooling and driver, so each way runs for some milliseconds on the card.
Before a way is timed, its result is compared with the plain computation: a way whose relative error is above its limit
is never chosen. The choice is kept in a file for this card, driver and software, so only the first start measures.

    fixed by a setting  >  remembered by a resumed job  >  kept in the file  >  measured now

A failure costs a choice, never a start. A way that raises is left out. Where the plain computation fails, or memory ran
out, the question's plain way is used this time and nothing is kept. One failure does end the start: a way that leaves
the card unusable for this process. That way is noted in the file (kept_choices.py), and the next process leaves it out.

The clock, the ways and the comparison are handed in. Knows neither torch nor a GPU nor the meaning of a question.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels.kept_choices import Card, Kept, KeptChoices

__all__ = ["Card", "Choice", "Chooser", "Clock", "Question", "Way"]

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Clock = Callable[[Callable[[], object]], float]
"""Runs a computation some times and returns its duration in milliseconds."""

ROUNDS = 3
"""Count of timed runs of each way. The ways take turns, because a card's clock rises during the first runs."""
_HOPELESS = 3.0
"""A way that took so many times as long as the fastest one is not timed again."""


@dataclass(frozen=True)
class Way(Generic[T]):
    """One way to compute. run: computes once. limit: the largest relative error to the plain result that is accepted.

    why_not: gives the reason why this way cannot run here, or None. With a reason the way is not run.
    """

    run: Callable[[], T]
    limit: float
    why_not: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Question(Generic[T]):
    """A computation with several ways to do it. kind: the name by which a setting fixes the answer.

    shape: sizes on which the answer depends, in words. plain: computes the result with which each way is compared.
    error: the relative error of a result (got, wanted).
    plain_way: the way that is used where nothing could be measured; "" where there is none. Inputs are best made by
    `plain` and `run`, not before: only there is a failure, such as memory that ran out, caught.
    """

    kind: str
    shape: str
    plain: Callable[[], T]
    error: Callable[[T, T], float]
    plain_way: str = ""

    @property
    def key(self) -> str:
        """The name under which the answer is kept: kind and shape."""
        return f"{self.kind} {self.shape}".strip()


@dataclass(frozen=True)
class Choice:
    """The chosen way with the reason, for the log."""

    way: str
    reason: str


@dataclass
class Chooser:
    """Answers questions for one card.

    folder: where choices are kept; None keeps none. fixed: kind -> way, from the settings. agreed: makes several
    processes that render one video use the same way; gets this process's way and returns the way of all. ran_out:
    whether an error means that memory ran out, which says nothing about the way that raised it.
    """

    card: Card
    clock: Clock
    folder: Path | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    agreed: Callable[[str], str] = lambda way: way
    ran_out: Callable[[Exception], bool] = lambda error: isinstance(error, MemoryError)
    _remembered: Mapping[str, str] = field(default_factory=dict)
    _in_use: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = KeptChoices(self.card, self.folder)

    def choose(self, question: Question[T], ways: Mapping[str, Way[T]]) -> Choice | None:
        """The fastest correct way, or None where no way computes correctly here. Writes one line to the log.

        Raises EngineUnavailable where a way left the card unusable for this process.
        """
        # Every process asks the others once, also where nothing runs, because they wait for its answer.
        try:
            found = self._fixed(question, ways) or self._recorded(question, ways)
        except EngineUnavailable:
            self.agreed("")
            raise
        way = self.agreed("" if found is None else found.way)
        if not way:
            return None
        choice = found if found is not None and found.way == way else Choice(way, "as in the other process")
        self._in_use[question.key] = choice.way
        log.info("chosen: %s: %s (%s)", question.key, choice.way, choice.reason)
        return choice

    def recall(self, remembered: Mapping[str, str]) -> bool:
        """Answer as a resumed job remembers, from now on. Returns whether any answer in use differs from that.

        An empty mapping returns to this card's own choices.
        """
        if dict(remembered) == dict(self._remembered):
            return False
        before, self._remembered = self._remembered, dict(remembered)
        differs = {key for key, way in remembered.items() if self._in_use.get(key, way) != way}
        return bool(differs) or any(self._in_use.get(key) == way for key, way in before.items())

    @property
    def in_use(self) -> dict[str, str]:
        """Question -> way of every choice so far, for a resume point."""
        return dict(self._in_use)

    def _fixed(self, question: Question[T], ways: Mapping[str, Way[T]]) -> Choice | None:
        """The way that a setting fixes, or None without such a setting or if that way cannot run here."""
        way = self.fixed.get(question.kind)
        if way is None or way not in ways:
            return None
        try:
            reason = ways[way].why_not()
        except Exception as error:  # a check of another package may raise any exception
            reason = _first(error)
        if reason is None:
            return Choice(way, "as set")
        log.warning("%s: %s was set and cannot run here: %s", question.key, way, reason)
        return None

    def _recorded(self, question: Question[T], ways: Mapping[str, Way[T]]) -> Choice | None:
        """The way that a resumed job or the file remembers, where it still computes correctly; else a measured one."""
        try:
            trials = _Trials(question, ways, self.kept, self.ran_out, question.plain())
            comparable = math.isfinite(question.error(trials.wanted, trials.wanted))
        except Exception as error:  # memory that ran out, or a kernel of any package that does not start here
            return _unmeasured(question, _first(error))
        if not comparable:
            return _unmeasured(question, "the plain computation did not give finite numbers")
        known = self.kept.choice(question.key)
        records = [(self._remembered.get(question.key), "as in the first part of this job")]
        if known is not None:
            records.append((known.way, _reason_of(known)))
        for way, source in records:
            if way is None:
                continue
            reason = trials.why_wrong(way) if way in ways else "it is unknown here"
            if reason is None:
                return Choice(way, source)
            log.warning("%s: %s was chosen before and is not used: %s", question.key, way, reason)
        return self._measured(question, ways, trials)

    def _measured(self, question: Question[T], ways: Mapping[str, Way[T]], trials: "_Trials[T]") -> Choice | None:
        """Time every correct way, keep the fastest in the file and return it; None where no way is correct."""
        correct = [name for name in ways if trials.is_correct(name)]
        # A single way needs no time, only the comparison.
        ms = self._timed(correct, trials) if len(correct) > 1 else {}
        correct = [name for name in correct if name not in trials.failed]
        if not correct:
            return _unmeasured(question, "memory ran out") if trials.memory_ran_out else None
        chosen = Kept(way=min(ms, key=lambda name: ms[name]) if ms else correct[0], ms=ms)
        if not trials.memory_ran_out:
            self.kept.keep(question.key, chosen)
        return Choice(chosen.way, f"measured: {_in_words(ms)}" if ms else _reason_of(chosen))

    def _timed(self, names: list[str], trials: "_Trials[T]") -> dict[str, float]:
        """The shortest duration in ms of each way, over ROUNDS in which all ways take turns."""
        ms: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name in names:
                if ms.get(name, 0.0) <= _HOPELESS * min(ms.values(), default=0.0) and name not in trials.failed:
                    taken = trials.attempt(name, lambda way: self.clock(way.run))
                    if taken is not None and math.isfinite(taken):
                        ms[name] = min(taken, ms.get(name, taken))
        return {name: round(taken, 4) for name, taken in ms.items() if name not in trials.failed}


@dataclass
class _Trials(Generic[T]):
    """Tries the ways of one question. failed: way -> the reason for every way that raised or was wrong.

    wanted: the plain result. memory_ran_out: whether any way failed for that reason.
    """

    question: Question[T]
    ways: Mapping[str, Way[T]]
    kept: KeptChoices
    ran_out: Callable[[Exception], bool]
    wanted: T
    failed: dict[str, str] = field(default_factory=dict)
    memory_ran_out: bool = False

    def is_correct(self, name: str) -> bool:
        """Whether the way computes correctly here. A way that could end this process is noted while it runs."""
        key = self.question.key
        if (reason := self.kept.why_not(key, name)) is not None:
            log.warning("%s: %s is not tried: %s", key, name, reason)
            self.failed[name] = reason
            return False
        with self.kept.trial(key, name):
            reason = self.why_wrong(name)
        if reason is not None:
            log.debug("%s: %s is no candidate: %s", key, name, reason)
        return reason is None

    def why_wrong(self, name: str) -> str | None:
        """The reason why a way is not used; None if the result of one run is close enough to `wanted`."""
        if name not in self.failed:
            reason = self.attempt(name, self._why_wrong)
            if reason is not None:
                self.failed[name] = reason
        return self.failed.get(name)

    def _why_wrong(self, way: Way[T]) -> str | None:
        """As `why_wrong`, but raises the errors of the way."""
        if (reason := way.why_not()) is not None:
            return reason
        wrong_by = self.question.error(way.run(), self.wanted)
        return None if wrong_by <= way.limit else f"its relative error is {wrong_by:.3g}, above {way.limit:g}"

    def attempt(self, name: str, use: Callable[[Way[T]], R]) -> R | None:
        """The result of `use` on a way; None, and the way among the failed ones, where it raises.

        Raises EngineUnavailable where the plain computation fails from then on.
        """
        try:
            return use(self.ways[name])
        except Exception as error:  # a kernel of another package may raise any; each means that it cannot be used
            self.failed[name] = _first(error)
            if self.ran_out(error):
                self.memory_ran_out = True
            elif not self._plain_still_runs():
                self.kept.note_fatal(self.question.key, name)
                raise EngineUnavailable(
                    f"The trial of {name} for {self.question.key} left the GPU unusable for this process "
                    f"({self.failed[name]}). Start it again: {name} is left out then."
                ) from error
            return None

    def _plain_still_runs(self) -> bool:
        """Whether the plain way still works on this GPU after a failure, or fails only for want of memory."""
        try:
            self.question.plain()
        except Exception as error:  # libraries below torch raise many classes, and any of them means a broken GPU
            self.memory_ran_out = self.memory_ran_out or self.ran_out(error)
            return self.ran_out(error)
        return True


def _unmeasured(question: Question[T], reason: str) -> Choice | None:
    """The question's plain way with the reason, or None where it has no plain way."""
    if not question.plain_way:
        log.warning("%s: nothing could be measured: %s", question.key, reason)
        return None
    return Choice(question.plain_way, f"the plain way, because nothing could be measured: {reason}")


def _reason_of(kept: Kept) -> str:
    """The reason of a kept choice, for the log."""
    return f"measured before: {_in_words(kept.ms)}" if kept.ms else "the only one that runs here"


def _in_words(ms: Mapping[str, float]) -> str:
    """The measured ways and their milliseconds, the fastest first, for the log."""
    return ", ".join(f"{name} {taken:.2f} ms" for name, taken in sorted(ms.items(), key=lambda one: one[1]))


def _first(error: Exception) -> str:
    """The first line of an error's text, or the error's class if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""Chooses the fastest of several ways to compute the same thing, by timing each way on this machine's own card.

A table of cards cannot know a card's clock, cooling and driver, so each way runs for some milliseconds on the card.
Before a way is timed, its result is compared with the plain computation: a way whose relative error is above its limit
is never chosen. The choice is kept in a file for this card, driver and software, so only the first start measures.

    fixed by a setting  >  remembered by a resumed job  >  kept in the file  >  measured now

The clock, the ways and the comparison are handed in. Knows neither torch nor a GPU nor the meaning of a question.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lipsync_server.durable import write_file

log = logging.getLogger(__name__)

T = TypeVar("T")

Clock = Callable[[Callable[[], object]], float]
"""Runs a computation some times and returns its duration in milliseconds."""


@dataclass(frozen=True)
class Card:
    """The key under which choices are kept: another card, driver or software measures again."""

    name: str
    driver: str = ""
    versions: str = ""

    @property
    def file_name(self) -> str:
        """The name of this card's file: the card in letters that every file system takes, and a digest of the key."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "card"
        digest = hashlib.sha256("\n".join((self.name, self.driver, self.versions)).encode()).hexdigest()
        return f"{words}-{digest[:12]}.json"


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
    """

    kind: str
    shape: str
    plain: Callable[[], T]
    error: Callable[[T, T], float]

    @property
    def key(self) -> str:
        """The name under which the answer is kept: kind and shape."""
        return f"{self.kind} {self.shape}".strip()


@dataclass(frozen=True)
class Choice:
    """The chosen way with the reason, for the log."""

    way: str
    reason: str


class _Kept(BaseModel):
    """One kept choice. ms: the duration of each way that was timed."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    way: str
    ms: dict[str, float] = {}

    @property
    def reason(self) -> str:
        """The reason of the choice, for the log."""
        return f"measured before: {_in_words(self.ms)}" if self.ms else "the only one that runs here"


class _File(BaseModel):
    """The file of one card. The key is inside too, because its digest in the file's name is short."""

    model_config = ConfigDict(frozen=True)

    card: str
    driver: str
    versions: str
    choices: dict[str, _Kept] = {}


@dataclass
class Chooser:
    """Answers questions for one card.

    folder: where choices are kept; None keeps none. fixed: kind -> way, from the settings. agreed: makes several
    processes that render one video use the same way; gets this process's way and returns the way of all.
    """

    card: Card
    clock: Clock
    folder: Path | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    agreed: Callable[[str], str] = lambda way: way
    _remembered: Mapping[str, str] = field(default_factory=dict)
    _in_use: dict[str, str] = field(default_factory=dict)

    def choose(self, question: Question[T], ways: Mapping[str, Way[T]]) -> Choice | None:
        """The fastest correct way, or None where no way computes correctly here. Writes one line to the log."""
        choice = self._fixed(question, ways) or self._agreed(self._recorded(question, ways))
        if choice is not None:
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
        reason = ways[way].why_not()
        if reason is None:
            return Choice(way, "as set")
        log.warning("%s: %s was set and cannot run here: %s", question.key, way, reason)
        return None

    def _agreed(self, choice: Choice | None) -> Choice | None:
        """The same choice in all processes of a video. Each process asks, also one in which no way runs."""
        way = self.agreed("" if choice is None else choice.way)
        if not way:
            return None
        return choice if choice is not None and choice.way == way else Choice(way, "as in the other process")

    def _recorded(self, question: Question[T], ways: Mapping[str, Way[T]]) -> Choice | None:
        """The way that a resumed job or the file remembers, where it still computes correctly; else a measured one."""
        wanted = question.plain()
        kept = self._read().choices.get(question.key)
        records = [(self._remembered.get(question.key), "as in the first part of this job")]
        if kept is not None:
            records.append((kept.way, kept.reason))
        for way, source in records:
            if way is None:
                continue
            reason = _why_wrong(ways[way], question, wanted) if way in ways else "it is unknown here"
            if reason is None:
                return Choice(way, source)
            log.warning("%s: %s was chosen before and is not used: %s", question.key, way, reason)
        return self._measured(question, ways, wanted)

    def _measured(self, question: Question[T], ways: Mapping[str, Way[T]], wanted: T) -> Choice | None:
        """Time every correct way, keep the fastest in the file and return it; None where no way is correct."""
        correct: dict[str, Way[T]] = {}
        for name, way in ways.items():
            reason = _why_wrong(way, question, wanted)
            if reason is None:
                correct[name] = way
            else:
                log.debug("%s: %s is no candidate: %s", question.key, name, reason)
        if not correct:
            return None
        # A single way needs no time, only the comparison above.
        ms = {name: round(self.clock(way.run), 4) for name, way in correct.items()} if len(correct) > 1 else {}
        kept = _Kept(way=min(ms, key=lambda name: ms[name]) if ms else next(iter(correct)), ms=ms)
        self._keep(question.key, kept)
        return Choice(kept.way, f"measured: {_in_words(ms)}" if ms else kept.reason)

    def _read(self) -> _File:
        """The kept choices of this card; none where the file is missing, torn or another card's."""
        empty = _File(card=self.card.name, driver=self.card.driver, versions=self.card.versions)
        if self.folder is None:
            return empty
        path = self.folder / self.card.file_name
        try:
            found = _File.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return empty
        except (OSError, ValidationError) as error:
            log.warning("the kept choices in %s cannot be read and are measured again: %s", path.name, _first(error))
            return empty
        return found if found.model_copy(update={"choices": {}}) == empty else empty

    def _keep(self, key: str, kept: _Kept) -> None:
        """Add a choice to the file. Another process may write at the same time: the last writer's file stays, whole."""
        if self.folder is None:
            return
        found = self._read()
        content = found.model_copy(update={"choices": {**found.choices, key: kept}})
        text = json.dumps(content.model_dump(), indent=1, sort_keys=True) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / self.card.file_name, lambda file: file.write(text.encode()))
        except OSError as error:
            log.warning("the choice for %s could not be kept and is measured at every start: %s", key, _first(error))


def _why_wrong(way: Way[T], question: Question[T], wanted: T) -> str | None:
    """Why a way is not used, or None if one run of it gives a result close enough to `wanted`."""
    try:
        if (reason := way.why_not()) is not None:
            return reason
        wrong_by = question.error(way.run(), wanted)
    except Exception as error:  # a kernel of another package may raise any exception; each means that it cannot be used
        return _first(error)
    return None if wrong_by <= way.limit else f"its relative error is {wrong_by:.3g}, and {way.limit:g} is the limit"


def _in_words(ms: Mapping[str, float]) -> str:
    """The measured ways and their milliseconds, the fastest first, for the log."""
    return ", ".join(f"{name} {taken:.2f} ms" for name, taken in sorted(ms.items(), key=lambda one: one[1]))


def _first(error: Exception) -> str:
    """The first line of an error's text, or the error's class if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

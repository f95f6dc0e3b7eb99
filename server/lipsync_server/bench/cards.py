"""Spread the benchmark's sections over the cards of one machine: a process to each task, longest first.

A process sees no card but its own, so a section is measured as it would be alone, except that the others use the host
meanwhile: which card each had, and how many there were, stands in the numbers. They are taken over as they come, so
that a run that is cut short keeps them. Knows about how long sections take and how processes end. Does not know what is
measured.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch

from lipsync_server.bench.record import Bench, Numbers, read

# Seconds on an H100, to begin with the longest; a section that is not here counts as a middling one.
_EXPECTED_S = {
    "http": 330, "quality_uncached": 280, "forward": 200, "quality": 160, "hd": 110, "windows": 95, "two_gpus": 80,
    "soak": 75, "int8": 60, "moving": 60, "capped": 45, "capped_int8": 45, "errors": 40, "two_people": 40,
    "loading": 35, "kernels": 8,
}  # fmt: skip
_MIDDLING_S = 60
# One process measures these: the random checkpoint of 28 GB that both read is then written once.
_SAME_CHECKPOINT = ("http", "soak")
_ON_TWO_CARDS = ("two_gpus",)
_LOOK_EVERY_S = 0.25
# What a process that is told to end may take: the server of the section http puts its jobs away.
_GRACE_S = 15.0


@dataclass(frozen=True)
class Task:
    """What one process measures, one section after the other. expected_s: about how long that takes."""

    sections: tuple[str, ...]
    expected_s: float
    n_cards: int = 1


def tasks(sections: Iterable[str]) -> list[Task]:
    """The sections as tasks, in the order in which to start them: the longest first.

    What needs two cards goes before all others, as two cards are seldom free at once later.
    """
    groups: dict[str, list[str]] = {}
    for section in sections:
        groups.setdefault("checkpoint" if section in _SAME_CHECKPOINT else section, []).append(section)
    made = [
        Task(tuple(group), sum(_EXPECTED_S.get(name, _MIDDLING_S) for name in group), 1 + (group[0] in _ON_TWO_CARDS))
        for group in groups.values()
    ]
    return sorted(made, key=lambda task: (-task.n_cards, -task.expected_s))


def visible_cards() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each card that this process may use. No card notices: a context takes memory."""
    n_cards = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(card) for card in range(n_cards)] if named is None else named.replace(" ", "").split(",")[:n_cards]


def spread(
    bench: Bench, queue: Sequence[Task], cards: Sequence[str], command: Sequence[str], *, keep_checkpoint: bool = False
) -> None:
    """Measure the tasks, each in a process of its own, and put all their numbers into `bench`'s.

    cards: as `visible_cards`, as many at least as any task needs. command: runs the benchmark in one process; it is
    given --only, --cards, --json and --scratch. A process that dies leaves the reason in its sections.
    """
    waiting, free = list(queue), list(range(len(cards)))
    running: list[_Process] = []
    bench.numbers["environment"] = Numbers(cards=len(cards))
    if keep_checkpoint:
        command = [*command, "--keep-checkpoint"]
    with TemporaryDirectory(dir=bench.scratch, prefix="cards-") as name, _sigterm_unwinds():
        try:
            while waiting or running:
                while (task := next((task for task in waiting if task.n_cards <= len(free)), None)) is not None:
                    waiting.remove(task)
                    own, free = free[: task.n_cards], free[task.n_cards :]
                    folder = Path(name) / "-".join(task.sections)
                    scratch = bench.scratch if keep_checkpoint else folder
                    visible = ",".join(cards[card] for card in own)
                    running.append(_Process(bench, task, own, visible, [*command, "--scratch", str(scratch)], folder))
                time.sleep(_LOOK_EVERY_S)
                for process in [process for process in running if process.look()]:
                    running.remove(process)
                    free = sorted(free + process.cards)
                bench.save()
        finally:
            for process in running:
                process.signal(signal.SIGTERM)
            for process in running:
                process.stop()
            bench.save()


class _Process:
    """A task on its cards, its numbers going into `bench` under the names of its sections.

    cards: their indices in this run. visible: what CUDA_VISIBLE_DEVICES calls them. folder: to be made, its own.
    """

    def __init__(
        self, bench: Bench, task: Task, cards: list[int], visible: str, command: Sequence[str], folder: Path
    ) -> None:
        self.cards = cards
        self._bench, self._task = bench, task
        folder.mkdir()
        self._path, self._words = folder / "numbers.json", folder / "words"
        self._told = 0
        self._last_words = ""
        for section in task.sections:
            bench.numbers.pop(section, None)
        self._say(", ".join(task.sections))
        given = ["--only", ",".join(task.sections), "--cards", "1", "--json", str(self._path)]
        with self._words.open("wb") as words:
            # A group of its own, so that what it has started ends with it.
            self._running = subprocess.Popen(
                [*command, *given], env=os.environ | {"CUDA_VISIBLE_DEVICES": visible}, stdin=subprocess.DEVNULL,
                stdout=words, stderr=words, start_new_session=True,
            )  # fmt: skip

    def look(self) -> bool:
        """Take over what is new; whether the process has ended."""
        status = self._running.poll()
        self._take_over()
        if status is None:
            return False
        self._end()
        words = f"; its last words: {self._last_words}" if self._last_words else ""
        self._fail(f"its process ended with status {status}{words}")
        return True

    def stop(self) -> None:
        """End the process; what it has not measured is marked."""
        self._end()
        self._take_over()
        self._fail("the run was stopped before this was done")

    def signal(self, number: int) -> bool:
        """Send a signal to the process and all that it has started; whether any is left."""
        with suppress(ProcessLookupError):
            os.killpg(self._running.pid, number)
            return True
        return False

    def _end(self) -> None:
        """Have the process gone, and what it has started: a server, or processes of torchrun, that hold the card."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self.signal(0) and time.monotonic() < deadline:
            self._running.poll()
            time.sleep(0.05)
        self.signal(signal.SIGKILL)
        self._running.wait()

    def _take_over(self) -> None:
        with self._words.open("rb") as words:
            words.seek(self._told)
            lines = [line for line in words if line.endswith(b"\n")]
        self._told += sum(map(len, lines))
        for line in lines:
            self._last_words = line.decode(errors="replace").rstrip() or self._last_words
            self._say(self._last_words)
        for name, found in read(self._path).items():
            section = self._section(name)
            section.update(cast(Numbers, found))
            if name != "environment":
                section["card"] = self.cards[0] if len(self.cards) == 1 else self.cards

    def _fail(self, reason: str) -> None:
        """Give the reason to the sections that were not finished."""
        for name in self._task.sections:
            section = self._section(name)
            if "took_s" not in section:
                section["failed"] = reason

    def _section(self, name: str) -> Numbers:
        return cast(Numbers, self._bench.numbers.setdefault(name, Numbers()))

    def _say(self, line: str) -> None:
        self._bench.say(f"card {', '.join(map(str, self.cards))}: {line}")


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Within, SIGTERM ends this process by an exception, so that it can end its own."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

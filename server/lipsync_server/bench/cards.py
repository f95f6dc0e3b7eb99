"""Spread the benchmark's sections over the cards of one machine: one process for each task, the longest first.

A process sees only its own cards, so a section is measured as it would be alone, except that the processes share the
host's CPU. The numbers therefore name the card of each section and the count of cards. The numbers of a process are
copied while it runs, so a run that is cut short keeps them. Knows no section's contents.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from lipsync_server.bench.machine import HEADER
from lipsync_server.bench.record import Numbers, Record, read, say
from lipsync_server.bench.sections import Section

_POLL_INTERVAL_S = 0.25
# Seconds that a process may take to end after SIGTERM: the server of the section http stores its jobs.
_GRACE_S = 15.0


@dataclass(frozen=True)
class Task:
    """Sections that one process measures in this order. expected_s: their seconds, roughly."""

    sections: tuple[str, ...]
    expected_s: float
    n_cards: int = 1


def tasks(sections: Mapping[str, Section[Any]]) -> list[Task]:
    """The sections as tasks, in the order in which to start them: the longest first.

    Tasks for two cards go before all others, because two cards are seldom free at once later.
    """
    groups: dict[str, list[str]] = {}
    for name, section in sections.items():
        groups.setdefault(section.shares or name, []).append(name)
    made = [
        Task(
            tuple(group),
            sum(sections[name].expected_s for name in group),
            max(sections[name].n_cards for name in group),
        )
        for group in groups.values()
    ]
    return sorted(made, key=lambda task: (-task.n_cards, -task.expected_s))


def visible_cards() -> list[str]:
    """The names in CUDA_VISIBLE_DEVICES of the cards of this process. Opens no CUDA context, which takes memory."""
    n_cards = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(card) for card in range(n_cards)] if named is None else named.replace(" ", "").split(",")[:n_cards]


def spread(
    record: Record,
    scratch: Path,
    queue: Sequence[Task],
    cards: Sequence[str],
    command: Sequence[str],
    *,
    keep_files: bool = False,
) -> None:
    """Measure the tasks, each in a process of its own, and put all their numbers into `record`.

    cards: names as from `visible_cards`, at least as many as any task needs. command: runs the benchmark in one
    process, with the flags --only, --cards, --json and --scratch added. If a process dies, its sections contain the
    reason.
    """
    waiting, free = list(queue), list(range(len(cards)))
    running: list[_Process] = []
    record.numbers[HEADER] = Numbers(cards=len(cards))
    if keep_files:
        command = [*command, "--keep-files"]
    with TemporaryDirectory(dir=scratch, prefix="cards-") as name, _sigterm_unwinds():
        try:
            while waiting or running:
                while (task := next((task for task in waiting if task.n_cards <= len(free)), None)) is not None:
                    waiting.remove(task)
                    own, free = free[: task.n_cards], free[task.n_cards :]
                    folder = Path(name) / "-".join(task.sections)
                    files = scratch if keep_files else folder
                    visible = ",".join(cards[card] for card in own)
                    running.append(_Process(record, task, own, visible, [*command, "--scratch", str(files)], folder))
                time.sleep(_POLL_INTERVAL_S)
                for process in [process for process in running if process.update()]:
                    running.remove(process)
                    free = sorted(free + process.cards)
                record.save()
        finally:
            for process in running:
                process.signal(signal.SIGTERM)
            for process in running:
                process.stop()
            record.save()


class _Process:
    """A task on its cards; its numbers go into `record` under the names of its sections.

    cards: their indices in this run. visible: their names in CUDA_VISIBLE_DEVICES. folder: is made, for this process.
    """

    def __init__(
        self, record: Record, task: Task, cards: list[int], visible: str, command: Sequence[str], folder: Path
    ) -> None:
        self.cards = cards
        self._record, self._task = record, task
        folder.mkdir()
        self._path, self._output = folder / "numbers.json", folder / "output"
        self._n_read = 0
        self._last_words = ""
        for section in task.sections:
            record.numbers.pop(section, None)
        self._say(", ".join(task.sections))
        given = ["--only", ",".join(task.sections), "--cards", "1", "--json", str(self._path)]
        if record.ends_at != math.inf:
            given += ["--budget", f"{max(0.0, record.ends_at - time.monotonic()):.0f}"]
        with self._output.open("wb") as output:
            # A process group of its own, so that processes which it starts can be ended with it.
            self._running = subprocess.Popen(
                [*command, *given], env=os.environ | {"CUDA_VISIBLE_DEVICES": visible}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def update(self) -> bool:
        """Copy new numbers and output; returns whether the process has ended."""
        status = self._running.poll()
        self._copy_new()
        if status is None:
            return False
        self._end()
        words = f"; its last words: {self._last_words}" if self._last_words else ""
        self._fail(f"its process ended with status {status}{words}")
        return True

    def stop(self) -> None:
        """End the process and mark the sections that it has not finished."""
        self._end()
        self._copy_new()
        self._fail("the run was stopped before this was done")

    def signal(self, number: int) -> bool:
        """Send a signal to the process and its descendants; returns whether any of them is left."""
        with suppress(ProcessLookupError):
            os.killpg(self._running.pid, number)
            return True
        return False

    def _end(self) -> None:
        """End the process and its descendants: a server or processes of torchrun would keep the card's memory."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self.signal(0) and time.monotonic() < deadline:
            self._running.poll()
            time.sleep(0.05)
        self.signal(signal.SIGKILL)
        self._running.wait()

    def _copy_new(self) -> None:
        """Print the new lines of the process's output, and copy its numbers into the record."""
        with self._output.open("rb") as output:
            output.seek(self._n_read)
            lines = [line for line in output if line.endswith(b"\n")]
        self._n_read += sum(map(len, lines))
        for line in lines:
            self._last_words = line.decode(errors="replace").rstrip() or self._last_words
            self._say(self._last_words)
        for name, found in read(self._path).items():
            section = self._record.of(name)
            section.update(cast(Numbers, found))
            if name != HEADER:
                section["card"] = self.cards[0] if len(self.cards) == 1 else self.cards

    def _fail(self, reason: str) -> None:
        """Store the reason in the sections that were not finished."""
        for name in self._task.sections:
            section = self._record.of(name)
            if "took_s" not in section:
                section["failed"] = reason

    def _say(self, line: str) -> None:
        """Print a line with the cards of this process before it."""
        say(f"card {', '.join(map(str, self.cards))}: {line}")


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit, so that this process can end the processes that it started."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

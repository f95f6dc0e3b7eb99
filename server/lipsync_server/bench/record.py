"""The numbers of one benchmark run, in a JSON file that is written after each part.

A failed section does not end the run. Knows the names, the order and the storage of sections. Does not know the
measurement of a section, nor its device.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

Numbers = dict[str, Any]
Measure = Callable[[Numbers], None]
"""Fills in the numbers of one section."""


def _nothing() -> None:
    """Do nothing after a part."""


@dataclass
class Record:
    """All numbers of a run by section.

    path: the JSON file; sections of an earlier run stay in it. ends_at: on `time.monotonic`; no section begins after
    this time. after_part: called after every part, to release memory.
    """

    path: Path | None = None
    ends_at: float = math.inf
    after_part: Callable[[], None] = _nothing
    numbers: Numbers = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None:
            self.numbers = read(self.path)

    def run(self, sections: Mapping[str, Measure]) -> None:
        """Measure the sections in order."""
        for name, measure in sections.items():
            self.section(name, measure)

    def section(self, name: str, measure: Measure) -> None:
        """Measure one section and print its numbers. A failure ends only this section."""
        if time.monotonic() > self.ends_at:
            self.numbers[name] = {"left_out": "the time was used up"}
            self.save()
        else:
            self.part(self.numbers, name, measure)
        say(f"{name}: {json.dumps(self.numbers[name])}")

    def part(self, numbers: Numbers, name: str, measure: Measure) -> None:
        """Measure one part of `numbers` and save it. After a failure the part contains the reason."""
        started = time.perf_counter()
        found = Numbers()
        numbers[name] = found
        try:
            measure(found)
        except Exception as error:  # a measurement may raise any error, and the other parts must still run
            found["failed"] = f"{type(error).__name__}: {str(error)[:500]}"
        found["took_s"] = round(time.perf_counter() - started, 1)
        self.save()
        self.after_part()

    def of(self, section: str) -> Numbers:
        """The numbers of a section. A missing section is added."""
        return cast(Numbers, self.numbers.setdefault(section, Numbers()))

    def save(self) -> None:
        """Write all numbers to the JSON file, if there is one."""
        if self.path is not None:
            write(self.path, self.numbers)


def say(line: str) -> None:
    """Print a line about the progress of the run."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def read(path: Path) -> Numbers:
    """The numbers in a file; {} if the file does not exist."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Numbers()


def write(path: Path, numbers: Numbers) -> None:
    """Write the numbers to a file in one step, so that a reader sees the old file or the whole new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    part.replace(path)

"""Sections of a benchmark with random weights: the description of a section, and the choice of a run's sections.

The benchmarks of all engines use this module. Knows no section's contents.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lipsync_server.bench.record import Numbers
from lipsync_server.errors import InvalidInput

B = TypeVar("B")


@dataclass(frozen=True)
class Section(Generic[B]):
    """One section of an engine's benchmark `B`.

    expected_s: seconds on an H100, so that several cards can begin with the longest. n_cards: GPUs that it needs.
    shares: sections with the same word here are measured by one process, as they read the same files.
    """

    measure: Callable[[B, Numbers], None]
    expected_s: float = 60
    n_cards: int = 1
    shares: str = ""


@dataclass(frozen=True)
class SectionRun:
    """One run of sections, with the choices of `lipsync bench --random-weights`.

    device: as torch names it. only: sections, separated by commas; all when empty. scratch: folder for files of up to
    50 GB. cards: at most so many GPUs at the same time; None takes all that are visible. keep_files: leave the random
    model files in `scratch` for the next run.
    """

    device: str
    scratch: Path
    only: str = ""
    json_path: Path | None = None
    tiny: bool = False
    cards: int | None = None
    keep_files: bool = False
    budget_s: float | None = None


def chosen(known: Iterable[str], only: str) -> list[str]:
    """The names in `known` that `only` asks for, in the order of `known`; all of them when it is empty.

    A name may consist of several words, `speed 512 float16`: an entry of `only` asks for every name that has all of
    the entry's words. Raises InvalidInput for an entry that fits no name.
    """
    names = list(known)
    entries = [set(entry.split()) for entry in only.split(",") if entry.strip()]
    for entry in entries:
        if not any(entry <= set(name.split()) for name in names):
            raise InvalidInput(f"--only: there is no section {' '.join(sorted(entry))}; there are {', '.join(names)}.")
    return [name for name in names if not entries or any(entry <= set(name.split()) for entry in entries)]


def torch_device(setting: str) -> str:
    """The device of the setting `device`: `auto` is the first GPU where there is one, else the CPU. Imports torch."""
    import torch

    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"

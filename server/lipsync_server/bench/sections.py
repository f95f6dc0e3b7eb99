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

    measure: fills in the section's numbers. expected_s: seconds on an H100, so that several cards can begin with the
    longest section. n_cards: GPUs that the section needs. shares: sections with the same word are measured by one
    process, because they read the same files.
    """

    measure: Callable[[B, Numbers], None]
    expected_s: float = 60
    n_cards: int = 1
    shares: str = ""


@dataclass(frozen=True)
class SectionRun:
    """One run of sections, with the choices of `lipsync bench --random-weights`.

    device: as torch names it. scratch: folder for files of up to 50 GB. only: sections, separated by commas; "" for
    all. tiny: whether to use tiny sizes. cards: largest count of GPUs at the same time; None for all visible ones.
    keep_files: whether the random model files stay in `scratch` for the next run. budget_s: seconds after which no
    section starts.
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
    """The names in `known` that `only` selects, in the order of `known`; all names if `only` is empty.

    A name may have several words, such as `speed 512 float16`. An entry of `only` selects every name that has all words
    of the entry. Raises InvalidInput for an entry that selects no name.
    """
    names = list(known)
    entries = [set(entry.split()) for entry in only.split(",") if entry.strip()]
    for entry in entries:
        if not any(entry <= set(name.split()) for name in names):
            raise InvalidInput(f"--only: there is no section {' '.join(sorted(entry))}; there are {', '.join(names)}.")
    return [name for name in names if not entries or any(entry <= set(name.split()) for entry in entries)]


def torch_device(setting: str) -> str:
    """The device of the setting `device`: `auto` is the first GPU, or the CPU without a GPU. Imports torch."""
    import torch

    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"

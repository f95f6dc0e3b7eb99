"""InfiniteTalk's golden data, made by the public reference, and comparisons with it."""

import math
from pathlib import Path
from typing import Any

import torch
from golden_files import GoldenFiles
from golden_table import GoldenTable
from sampled import differences
from torch import Tensor

FILES = GoldenFiles("infinitetalk")
CPU = torch.device("cpu")
# Several workers share the cores of the machine that runs the tests.
torch.set_num_threads(1)


def golden_path(name: str) -> Path:
    """The golden file or folder `name`."""
    return FILES.path(name)


def golden(name: str) -> dict[str, Tensor]:
    """Tensors of a golden file; bfloat16 ones hold exact values and are returned as float32."""
    return FILES.tensors(name)


def golden_json(name: str) -> Any:
    return FILES.json(name)


def error(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference at the known values; also checks the shapes."""
    return float(differences(ours, reference).max())


TABLE = GoldenTable()


def meets(case: str, ours: Tensor, reference: Tensor, tolerance: float) -> None:
    """Assert that `ours` is the golden `reference` within `tolerance` (0: exactly). `case` begins with its folder."""
    within(case, error(ours, reference), tolerance)


def within(case: str, found: float, tolerance: float) -> None:
    """Note the difference `found` in the table and assert that it is at most `tolerance`; nan is not."""
    TABLE.note(case, tolerance, found)


def equal(case: str, ours: object, reference: object) -> None:
    """Assert that something that is no tensor is exactly the golden one."""
    TABLE.note(case, 0.0, 0.0 if ours == reference else math.inf)

"""Golden data of the public reference: small files beside the tests, large ones in ../shared of the checkout."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_table import GoldenTable
from safetensors.torch import load_file
from torch import Tensor

_HERE = Path(__file__).resolve()
_SMALL = _HERE.parents[1] / "data" / "infinitetalk"
_LARGE = _HERE.parents[3] / "shared" / "infinitetalk"
CPU = torch.device("cpu")
# Several workers share the cores of the machine that runs the tests.
torch.set_num_threads(1)


def golden_path(name: str) -> Path:
    """The golden file `name`; skips the test where it is not there."""
    for folder in (_SMALL, _LARGE):
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"the golden file {name} is too large for the repository and ../shared/infinitetalk is not here")


def golden(name: str) -> dict[str, Tensor]:
    """Tensors of a golden file; bfloat16 ones hold exact values and come as float32."""
    return {key: t.float() if t.is_floating_point() else t for key, t in load_file(golden_path(name)).items()}


def golden_json(name: str) -> Any:
    path = golden_path(name)
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def error(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference; also checks the shapes."""
    assert ours.shape == reference.shape
    return float((ours.float() - reference).abs().max())


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

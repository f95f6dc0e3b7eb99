"""The Triton kernels compute the results of plain torch, on small shapes in Triton's interpreter: no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# Relative errors: rounding to int8 with a scale for each row costs 0.01, to bf16 0.004 and to fp8 0.054. A GPU costs
# half of the last two: it rounds to the nearest float, and the interpreter truncates.
LIMITS = {
    "bits": 0.0,
    "mean": 1e-4,
    "residual": 0.006,
    "bf16": 0.006,
    "fp8": 0.06,
    "product": 0.006,
    "int8": 0.02,
    "VAE": 1e-5,
    "beyond": 0.0,
}


def limit_of(name: str) -> float:
    return next((limit for word, limit in LIMITS.items() if word in name), 0.02)


def test_every_kernel_computes_what_plain_torch_does() -> None:
    program = Path(__file__).parents[1] / "support/triton_on_cpu.py"
    finished = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ)
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    errors = json.loads(finished.stdout)
    assert len(errors) == 29
    assert {name: error for name, error in errors.items() if not error <= limit_of(name)} == {}

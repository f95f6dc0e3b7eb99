"""Prints constraints.txt for the torch that is installed: its own version, and no pin of a package that it decides.

The image's torch is built for CUDA; the tests run with another build (TEST_TORCH in the Makefile). A torch for CUDA
requires exact versions of its libraries, so their pins are left out. A torch for the CPU requires none of them: then
the tests compile the kernels with the image's own compiler.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

OF_CUDA = ("cuda-", "nvidia-", "triton")
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def plain(name: str) -> str:
    """A package's name as indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints_for(torch: str, requirements: list[str]) -> list[str]:
    """The pins for torch of version `torch` that has `requirements`."""
    required = {plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements}
    decided = {"torch", "torchvision", *(name for name in required if name.startswith(OF_CUDA))}
    pins = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return [*(pin for pin in pins if plain(pin.partition("==")[0]) not in decided), f"torch=={torch}"]


if __name__ == "__main__":
    installed = metadata.distribution("torch")
    sys.stdout.write("\n".join(constraints_for(installed.version, installed.requires or [])) + "\n")

"""Moves the largest packages of a Python environment to folders that become an image's layers: ENVIRONMENT LAYERS.

A host downloads three layers at a time and unpacks them one after the other, in their order, so the first ones are
small: the unpacking begins early. LAYERS/1/ENVIRONMENT/... and its neighbours hold libraries of NVIDIA and torch, and
complete the environment when they are copied to `/`. docs/rent-a-gpu.md has the layers' sizes. Needs nothing but
Python's standard library.
"""

import sys
from pathlib import Path

LAYERS: tuple[tuple[str, ...], ...] = (
    ("nvidia/cusparse",),
    ("nvidia/cusparselt",),
    ("nvidia/cusolver", "nvidia/nvshmem"),
    ("nvidia/nccl", "nvidia/cuda_nvrtc"),
    ("nvidia/cublas",),
    ("nvidia/cudnn",),
    ("torch",),
    ("nvidia/cufft", "nvidia/curand", "triton"),
)


def split(environment: Path, layers: Path) -> None:
    """Move each package of LAYERS from the environment to its layer. Raises OSError if one is missing."""
    [site] = environment.glob("lib/python3*/site-packages")
    for number, names in enumerate(LAYERS, 1):
        for name in names:
            place = layers / str(number) / (site / name).relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            (site / name).rename(place)


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))

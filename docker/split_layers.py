"""Moves the largest packages of a Python environment to folders that become an image's layers: ENVIRONMENT LAYERS.

LAYERS/1/ENVIRONMENT/... to LAYERS/4/ENVIRONMENT/... hold libraries of NVIDIA and torch; copied to `/`, they complete
the environment. The layers take about the same time to unpack. Their sizes on the disk in GB, on 2026-11-28: see
docs/rent-a-gpu.md. Needs nothing but Python's standard library.
"""

import sys
from pathlib import Path

LAYERS: tuple[tuple[str, ...], ...] = (
    ("nvidia/cudnn", "nvidia/cusparse"),
    ("nvidia/cublas", "nvidia/nccl", "nvidia/cufft"),
    ("nvidia/cusparselt", "nvidia/cusolver", "nvidia/nvshmem", "nvidia/cuda_nvrtc", "nvidia/curand", "triton"),
    ("torch",),
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

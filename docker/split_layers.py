"""Moves the largest packages of a Python environment to folders that become an image's layers: ENVIRONMENT LAYERS.

A host downloads three layers at a time and unpacks them one after the other, in their order. So a layer that grows
much when it is unpacked comes early, and layers that hardly grow come last (tests/load/layer_order.py searches the
order). LAYERS/1/ENVIRONMENT/... and its neighbours hold libraries of NVIDIA and torch, and complete the environment
when they are copied to `/`. The Dockerfile copies the rest of the environment after the second layer.
docs/rent-a-gpu.md has the layers' sizes. Needs nothing but Python's standard library.
"""

import sys
from pathlib import Path

LAYERS: tuple[tuple[str, ...], ...] = (
    ("nvidia/cusparselt",),
    ("nvidia/cufft", "nvidia/curand", "triton"),
    ("nvidia/cudnn",),
    ("torch",),
    ("nvidia/cublas",),
    ("nvidia/cusolver", "nvidia/nvshmem"),
    ("nvidia/cusparse",),
    ("nvidia/nccl", "nvidia/cuda_nvrtc"),
)


UNUSED = (
    "nvidia/cusolver/lib/libcusolverMg.so.*",  # dense solvers over several GPUs
    "nvidia/cuda_nvrtc/lib/libnvrtc*.alt.*",  # a second build of NVRTC, which a program has to choose by name
    "nvidia/nvshmem/lib/*.a",
    "triton/backends/nvidia/lib/cupti/*.a",
)
"""Libraries that no package of the image opens, about 0.4 GB: nothing links them, and static ones are for compilers."""


def split(environment: Path, layers: Path) -> None:
    """Delete UNUSED, and move each package of LAYERS from the environment to its layer.

    Raises OSError if a package is missing, and ValueError if a pattern of UNUSED names no file any more.
    """
    [site] = environment.glob("lib/python3*/site-packages")
    for pattern in UNUSED:
        files = list(site.glob(pattern))
        if not files:
            raise ValueError(f"{pattern} names no file: remove the pattern from UNUSED")
        for file in files:
            file.unlink()
    for number, names in enumerate(LAYERS, 1):
        for name in names:
            place = layers / str(number) / (site / name).relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            (site / name).rename(place)


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))

"""The names under which a release is published. Only this module has the owner's name.

REPOSITORY is empty in a checkout. The release workflow writes `owner/name` into it before it builds. All other names
are made from REPOSITORY and the version. Does not know whether the published files exist.
"""

from lipsync_server.version import __version__

REPOSITORY = ""
"""`owner/name` at GitHub; "" if this copy comes from no release."""

STOCK_IMAGE = "pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
"""PyTorch's own image, which many rented hosts have in their cache, with the torch that xformers 0.0.35 needs."""

STOCK_CUDA = "12.0"
"""Lowest CUDA version of a host's driver for STOCK_IMAGE: any CUDA 12 runs on driver 525 and newer (NVIDIA's table)."""

IMAGE_CUDA = "12.0"
"""The same for our own image, whose torch is built for CUDA 12.8 (constraints.txt)."""

_LEAST_DRIVERS = {"12": 525, "13": 580}


def image() -> str:
    """The published GPU image of this version; "" if there is none."""
    return f"ghcr.io/{REPOSITORY.lower()}:{__version__}-gpu" if REPOSITORY else ""


def source_archive() -> str:
    """The published source of this version; "" if there is none."""
    return f"https://github.com/{REPOSITORY}/archive/refs/tags/v{__version__}.tar.gz" if REPOSITORY else ""


def least_driver(cuda: str) -> int:
    """The first driver branch that runs programs built for CUDA version `cuda`."""
    return _LEAST_DRIVERS[cuda.partition(".")[0]]

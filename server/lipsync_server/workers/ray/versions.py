"""Compares the software versions of a machine with the server's when the machine joins the cluster.

Server and actors exchange Python objects, so a difference would break renders with errors that hide their cause.
"""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from lipsync_server.version import __version__


@dataclass(frozen=True)
class Versions:
    """The versions of lipsync-server, Python ("3.11") and Ray in one process."""

    lipsync: str
    python: str
    ray: str

    @classmethod
    def here(cls) -> "Versions":
        """The versions of this process."""
        try:
            ray = version("ray")
        except PackageNotFoundError:
            ray = "none"
        return cls(__version__, ".".join(platform.python_version_tuple()[:2]), ray)


def difference(there: Versions | None, here: Versions, machine: str) -> str:
    """A sentence about the versions that differ from the server's; "" when equal. there: None when none were sent."""
    if there is None:
        return (
            f"Machine {machine} runs an older lipsync-server than this server's {here.lipsync}; it gets no work. "
            "Install the same version on both and start Ray there again."
        )
    names = {"lipsync": "lipsync-server", "python": "Python", "ray": "Ray"}
    differing = [
        f"{title} {getattr(there, field)} instead of {getattr(here, field)}"
        for field, title in names.items()
        if getattr(there, field) != getattr(here, field)
    ]
    if not differing:
        return ""
    return (
        f"Machine {machine} has {', '.join(differing)}; it gets no work. Install the same versions as on the server "
        "and start Ray there again."
    )

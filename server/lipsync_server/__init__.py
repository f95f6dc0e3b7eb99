"""Lipsync: a picture and a voice recording in, an MP4 of that person saying it out.

This is the face of the package, for programs outside of it; no module inside imports anything from here. `Lipsync` is
the library (library.py). It is imported when it is first named, so that `import lipsync_server` stays quick.
"""

from typing import TYPE_CHECKING

from lipsync_server.version import __version__ as __version__

if TYPE_CHECKING:
    from lipsync_server.library import Lipsync as Lipsync

__all__ = ["Lipsync", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Lipsync":
        from lipsync_server.library import Lipsync

        return Lipsync
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

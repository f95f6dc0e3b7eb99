"""Lipsync: a picture and a voice recording in, an MP4 of that person saying it out.

This module is for programs outside of the package. No module inside imports it. `Lipsync` is the library (library.py).
library.py is imported at its first use, so that `import lipsync_server` is fast.
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

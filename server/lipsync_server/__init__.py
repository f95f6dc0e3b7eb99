"""Lipsync: a picture and a voice recording in, an MP4 of that person saying it out.

`Lipsync` is the library (library.py). It is imported when it is first named, so that `import lipsync_server` and
`lipsync --help` stay quick.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lipsync_server.library import Lipsync as Lipsync

__all__ = ["Lipsync", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Lipsync":
        from lipsync_server.library import Lipsync

        return Lipsync
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

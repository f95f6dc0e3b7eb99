"""Read the engine's name from the mark of a video (docs/marking.md)."""

import re
from pathlib import Path

from lipsync_server.media.formats.container import boxes

_CREATOR = re.compile(rb'CreatorTool="Lipsync [^",]*, engine ([\w.-]+)"')
_LONGEST_BYTES = 100_000
BY_PREDICTION = ("preview",)
"""The engines that move the mouth by the same network that the check compares with."""


def marked_engine(video: Path) -> str | None:
    """The engine's name in the XMP mark of an MP4; None in a video without one."""
    size = video.stat().st_size
    with video.open("rb") as file:
        for box in boxes(file, 0, size):
            if box.kind == b"uuid" and box.end - box.start < _LONGEST_BYTES:
                file.seek(box.start)
                if found := _CREATOR.search(file.read(box.end - box.start)):
                    return found.group(1).decode("ascii", "replace")
    return None

"""Read the engine's name from the mark of a video (docs/marking.md)."""

import re
from contextlib import suppress
from pathlib import Path

from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import EngineUnavailable
from lipsync_server.media.formats.container import boxes

_CREATOR = re.compile(rb'CreatorTool="Lipsync [^",]*, engine ([\w.-]+)"')
_LONGEST_BYTES = 100_000


def moves_by_prediction(engine: str | None) -> bool:
    """Whether `engine` moves the mouth by the prediction with which the check compares it."""
    # An engine that is not installed any more gives no information about its videos.
    with suppress(EngineUnavailable):
        return (
            engine is not None and engine in ENGINES.entries and ENGINES.options_model(engine).moves_mouth_by_prediction
        )
    return False


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

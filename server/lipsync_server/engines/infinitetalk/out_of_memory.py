"""The advice when the GPU's memory runs out for InfiniteTalk even after it made room (engines/second_attempt.py)."""

from collections.abc import Callable

from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.second_attempt import Room


def room_for(make: Callable[[], bool], options: Options) -> Room:
    """Room for a job with `options`. make: moves half of the transformer's blocks on the GPU to host memory."""
    smaller = ("resolution 480p",) if options.resolution == "720p" else ()
    remedies = (*smaller, "int8 or fp8 weights", "LIPSYNC_OFFLOAD=blocks")
    return Room(make, "while InfiniteTalk was at work", remedies)

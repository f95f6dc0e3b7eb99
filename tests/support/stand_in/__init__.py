"""A small engine for tests of the code around engines: colour bars that move with the frame number.

The stand-in implements the whole Engine protocol, resume points included. Its options make it misbehave in every way
that a test needs: slow, wrong sizes, too few or too many frames, death of the process while loading or rendering.
"""

from lipsync_server.engines.registry import EngineEntry, Registry

REGISTRY = Registry({"bars": EngineEntry("stand_in")})

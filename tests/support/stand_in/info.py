"""The stand-in engine can run anywhere."""

from lipsync_server.engines.base import EngineInfo
from lipsync_server.settings import Settings


def describe(settings: Settings) -> EngineInfo:
    return EngineInfo(name="bars", title="Colour bars", available=True, reason="")

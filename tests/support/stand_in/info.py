"""The stand-in engine can run anywhere."""

from lipsync_server.engines.base import EngineInfo
from lipsync_server.settings import Settings

from stand_in.options import Options


def describe(settings: Settings) -> EngineInfo:
    schema = Options.model_json_schema()
    return EngineInfo(name="bars", title="Colour bars", available=True, reason="", options_schema=schema)

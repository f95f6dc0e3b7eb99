"""The engine can run anywhere."""

from lipsync_server.engines.base import EngineInfo
from lipsync_server.settings import Settings

from takes.options import Options


def describe(settings: Settings) -> EngineInfo:
    schema = Options.model_json_schema()
    return EngineInfo(name="takes", title="Takes", available=True, reason="", options_schema=schema)

"""The preview engine's entry in GET /v1/engines, made without loading the engine."""

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.preview.options import Options
from lipsync_server.paths import bundled
from lipsync_server.settings import EngineSettings

_FILES = ("face_landmarker.task", "preview_mouth.npz")


def describe(settings: EngineSettings) -> EngineInfo:
    """The engine's description. The engine is available if the model files of this package are present."""
    reason = ""
    try:
        for name in _FILES:
            bundled(name)
    except FileNotFoundError as error:
        reason = str(error)
    return EngineInfo(
        name="preview",
        title="Preview: landmarks and a warp on the CPU",
        available=not reason,
        reason=reason,
        device="cpu",
        options_schema=Options.model_json_schema(),
    )

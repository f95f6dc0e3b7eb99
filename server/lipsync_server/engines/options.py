"""What a caller asked for, as the options of one engine: defaults filled in, checked, errors in words.

Knows the options models' interface only; which engine has which options is in the engines' own models.
"""

from collections.abc import Mapping

from pydantic import ValidationError

from lipsync_server.engines.base import EngineOptions
from lipsync_server.errors import InvalidInput
from lipsync_server.settings import Settings

# Settings that are the default of an option of the same name.
_DEFAULTED = ("preset", "resolution", "steps")


def merge_options(
    model: type[EngineOptions], settings: Settings, shared: Mapping[str, object], own: Mapping[str, object]
) -> dict[str, object]:
    """Values for `model`: the settings' defaults, over them `shared`, over these `own`.

    shared: what may be asked of every engine (preset, resolution, seed, face_index, face_box), None where it was not;
    an engine that has no such option is not given it. own: options of this engine; unknown ones stay, to be refused.
    """
    asked = {name: getattr(settings, name) for name in _DEFAULTED} | {
        name: value for name, value in shared.items() if value is not None
    }
    known = {name: value for name, value in asked.items() if name in model.model_fields and value is not None}
    return {**known, **own}


def parse_options(model: type[EngineOptions], values: Mapping[str, object], engine: str) -> EngineOptions:
    """`values` as the engine's options; raises InvalidInput that names the field and what is wrong with it."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        if first["type"] == "extra_forbidden":
            detail = f"Engine {engine} has no option {name!r}; it has: {', '.join(model.model_fields)}."
        else:
            detail = f"Option {name} of engine {engine}: {first['msg']}."
        raise InvalidInput(detail, field=name) from error

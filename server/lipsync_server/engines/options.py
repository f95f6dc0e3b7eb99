"""Turn an `Ask` into the options of one engine: defaults, checks, errors, and warnings for ignored options.

HTTP, the worker and the command line all use this module, so a wrong option gives the same sentence everywhere. Knows
the interface of options models. The model of each engine defines the options of that engine.
"""

from dataclasses import dataclass

from pydantic import ValidationError

from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions
from lipsync_server.settings import EngineSettings
from lipsync_server.validation import invalid

_SHARED = ("preset", "resolution", "seed", "face_index", "face_box")
_DEFAULT_IN_SETTINGS = ("preset", "resolution", "steps")


@dataclass(frozen=True)
class Chosen:
    """An engine's options, and a sentence for each option of the caller that this engine ignores."""

    options: EngineOptions
    ignored: tuple[str, ...]


def choose_options(engine: str, model: type[EngineOptions], ask: Ask, settings: EngineSettings) -> Chosen:
    """The options of `engine`: the defaults of `settings`, replaced by the options of `ask`.

    model: the options model of the engine. Raises InvalidInput with the option, its value, the fault and the existing
    options, or for a value that names a file which this server does not have.
    """
    defaults = {name: getattr(settings, name) for name in _DEFAULT_IN_SETTINGS}
    asked = {name: value for name in _SHARED if (value := getattr(ask, name)) is not None}
    shared = {name: value for name, value in {**defaults, **asked}.items() if name in model.model_fields}
    values = {name: value for name, value in shared.items() if value is not None} | ask.options
    try:
        options = model.model_validate(values)
    except ValidationError as error:
        raise invalid(error, owner=f"engine {engine}", noun="option", model=model) from error
    options.check_here(settings)
    return Chosen(options, _ignored(engine, model, ask))


def _ignored(engine: str, model: type[EngineOptions], ask: Ask) -> tuple[str, ...]:
    """A sentence for each option of the caller that the engine does not have."""
    sentences = []
    if ask.prompt.strip() and not model.reads_prompt:
        sentences.append(f"Engine {engine} does not read a prompt; the prompt was ignored.")
    for name in _SHARED:
        value = getattr(ask, name)
        if value is not None and name not in model.model_fields:
            sentences.append(f"Engine {engine} has no option {name}; {name} {value} was ignored.")
    return tuple(sentences)

"""Turn a pydantic error into one sentence with the field, the value, the fault, and the names that exist.

Pydantic models check HTTP requests, engine options, settings and command-line flags. All their errors are worded here,
so that the same mistake gives the same sentence everywhere. Knows pydantic and the error family.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from lipsync_server.errors import InvalidInput

MAX_DEPTH = 16
"""The largest depth of nested lists and objects in a caller's JSON. No option needs more than three."""

UNSEEN = (
    "\u00a0\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2066\u2067\u2068\u2069\ufeff"
)
"""Characters that nobody sees: no-break blanks, marks of the direction of writing, a byte order mark. Pages and chats
add them when a text is copied."""

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Fault:
    """The first fault that pydantic found. name: the field's path with dots, "" for the value as a whole."""

    name: str
    kind: str
    message: str
    given: object
    path: tuple[int | str, ...] = ()


def first_fault(error: ValidationError) -> Fault:
    """The first fault in a pydantic error, with its message in our words."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Input should"):
        message = f"it should{message.removeprefix('Input should')}"
    name = ".".join(str(part) for part in first["loc"])
    message = message.replace("a valid tuple", "a list")
    if first["type"] in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
        # pydantic names the class of our code here.
        message = "it should be an object of fields"
    return Fault(name, first["type"], message, first.get("input"), first["loc"])


def invalid(
    error: ValidationError,
    *,
    owner: str,
    noun: str = "field",
    known: Iterable[str] = (),
    model: type[BaseModel] | None = None,
    label: Callable[[str], str] | None = None,
) -> InvalidInput:
    """The error for a faulty field of `owner` ("engine preview", "the request").

    noun: the word for a field ("option", "setting"). known: the existing names, by default the fields of `model`.
    model: the pydantic model that refused the value. label: returns the words for a field; by default "option NAME of
    OWNER".
    """
    fault = first_fault(error)
    shown = label(fault.name) if label is not None else f"{noun} {fault.name} of {owner}"
    if fault.kind == "extra_forbidden":
        if model is not None and len(fault.path) > 1:
            *outer, name = fault.path
            whole = f"{noun} {'.'.join(map(str, outer))} of {owner}"
            return unknown(str(name), owner=whole, known=_fields_at(model, outer), field=fault.name)
        return unknown(fault.name, owner=owner, noun=noun, known=known or (model.model_fields if model else ()))
    if fault.kind == "missing":
        return InvalidInput(f"{_sentence(shown)} is missing.", field=fault.name)
    if not fault.name:
        return InvalidInput(f"{_sentence(f'{noun}s of {owner}')}: {fault.message}.")
    return InvalidInput(f"{_sentence(shown)} cannot be {show(fault.given)}: {fault.message}.", field=fault.name)


def unknown(
    name: str, *, owner: str, noun: str = "field", known: Iterable[str] = (), field: str | None = None
) -> InvalidInput:
    """The error for a name that does not exist, with the most similar name and all names. field: the name's path."""
    names = list(known)
    hint = f" Did you mean {near!r}?" if (near := nearest(name, names)) else ""
    has = f"; it has: {', '.join(names)}" if names else ""
    words = f"{_sentence(owner)} has no {noun} {show(name)}{has}.{hint}"
    return InvalidInput(words, field=(field or name)[:_SHOWN_CHARACTERS])


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The names of the fields of the object at `path` inside `model`: options of an option, entries of a list."""
    schema = model.model_json_schema()

    def forms(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The node as a list of its alternatives, with references followed."""
        if "$ref" in node:
            return forms(schema["$defs"][node["$ref"].rpartition("/")[2]])
        return [form for one in node["anyOf"] for form in forms(one)] if "anyOf" in node else [node]

    nodes = forms(schema)
    for part in path:
        inner = [node.get("items" if isinstance(part, int) else "properties", {}) for node in nodes]
        steps = inner if isinstance(part, int) else [properties.get(part, {}) for properties in inner]
        nodes = [form for step in steps if step for form in forms(step)]
    return [name for node in nodes for name in node.get("properties", {})]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The most similar known name; None if no name is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), None)


def show(value: object) -> str:
    """A caller's value for a message: quoted, control characters escaped, shortened."""
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}... ({len(value)} characters)"
    if isinstance(value, dict | list | tuple):
        return f"{str(value)[:_SHOWN_CHARACTERS]}..." if len(str(value)) > _SHOWN_CHARACTERS else str(value)
    return repr(value)[: _SHOWN_CHARACTERS + 2]


def why_not_json(value: object, *, depth: int = 0) -> str | None:
    """The reason why `value` cannot be stored as JSON and read back unchanged; None if it can.

    Refused are NaN, infinity, text that is no Unicode, and deep nesting.
    """
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} deep"
    if isinstance(value, float) and not math.isfinite(value):
        return "it has a number that is not finite (NaN or Infinity)"
    if isinstance(value, str):
        return why_not_text(value)
    if isinstance(value, dict):
        parts: Iterable[object] = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return None
    return next((why for part in parts if (why := why_not_json(part, depth=depth + 1))), None)


def why_not_text(text: str) -> str | None:
    """The reason why `text` is no Unicode text; None if it is. Half of a surrogate pair cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "it has half of a surrogate pair, which is no Unicode text"
    return None


def _sentence(text: str) -> str:
    """`text` with a capital letter at its start."""
    return text[:1].upper() + text[1:]

"""A JSON schema in words: the fields of an object with type, default and meaning, one line each.

The command line's help, `lipsync engines` and the page at /docs show options with this module, so they use the same
words.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

Schema = Mapping[str, object]


@dataclass(frozen=True)
class FieldLine:
    """One field. kind: its type with its bounds. default: as JSON, "" for none."""

    name: str
    kind: str
    default: str
    description: str
    required: bool = False


def field_lines(schema: Schema, definitions: Schema | None = None) -> list[FieldLine]:
    """The fields of an object's `schema`, in its order.

    definitions: the schemas by name to which `$ref` in `schema` refer; an object among them is shown by its name. If
    None, `$ref` refer to the schema's own `$defs`, and an object is shown with its fields.
    """
    known = definitions if definitions is not None else _mapping(schema.get("$defs"))
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    lines = []
    for name, field in _mapping(schema.get("properties")).items():
        each = _mapping(field)
        default = each.get("default")
        lines.append(
            FieldLine(
                name,
                kind_of(each, known, with_fields=definitions is None),
                "" if default is None or default in ("", [], {}) else json.dumps(default, ensure_ascii=False),
                str(each.get("description") or _mapping(known.get(_reference(each))).get("description") or ""),
                name in names,
            )
        )
    return lines


def kind_of(schema: Schema, definitions: Schema, *, with_fields: bool = False) -> str:
    """The type of a value in words, for example "number from 0 to 2" or "quality, balanced or fast".

    with_fields: an object is shown as its fields, {name: text, scale: number}, and not by its definition's name.
    """
    if reference := _reference(schema):
        target = _mapping(definitions.get(reference))
        if target.get("type") == "object" and not with_fields:
            return reference
        return kind_of(target, definitions, with_fields=with_fields)
    if isinstance(choices := schema.get("enum"), list):
        return _either([str(choice) for choice in choices])
    if "const" in schema:
        return str(schema["const"])
    for key in ("anyOf", "oneOf"):
        if isinstance(parts := schema.get(key), list):
            some = [_mapping(part) for part in parts if _mapping(part).get("type") != "null"]
            kinds = [kind_of(part, definitions, with_fields=with_fields) for part in some]
            return _either(list(dict.fromkeys(kinds)))
    kind = schema.get("type")
    if kind == "array":
        return _array(schema, definitions, with_fields=with_fields)
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        kind = {"binary": "file", "uri": "address", "date-time": "time"}.get(str(schema.get("format")), "text")
        most = schema.get("maxLength")
        return f"{kind} of up to {most} characters" if isinstance(most, int) and kind == "text" else kind
    if kind in ("integer", "number"):
        return _number("whole number" if kind == "integer" else "number", schema)
    if kind == "object":
        return _object(schema, definitions) if with_fields else "object"
    return "any value"


def _object(schema: Schema, definitions: Schema) -> str:
    """An object in words: {name: text, scale: number}."""
    properties = _mapping(schema.get("properties"))
    kinds = {name: kind_of(_mapping(each), definitions, with_fields=True) for name, each in properties.items()}
    return "{" + ", ".join(f"{name}: {kind}" for name, kind in kinds.items()) + "}" if kinds else "object"


def _array(schema: Schema, definitions: Schema, *, with_fields: bool) -> str:
    """A list in words: "4 numbers", or "list of text"."""
    if isinstance(parts := schema.get("prefixItems"), list):
        kinds = {kind_of(_mapping(part), definitions, with_fields=with_fields) for part in parts}
        if len(kinds) != 1:
            return "list"
        kind = kinds.pop()
        return f"{len(parts)} {kind}s" if kind in ("number", "whole number") else f"{len(parts)} times {kind}"
    kind = kind_of(_mapping(schema.get("items")), definitions, with_fields=with_fields)
    most = schema.get("maxItems")
    plural = kind.replace("number", "numbers", 1) if kind.startswith(("number", "whole number")) else kind
    return f"list of {f'up to {most} ' if isinstance(most, int) else ''}{plural}"


def _number(kind: str, schema: Schema) -> str:
    """A number in words, with its bounds."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return kind
    # The bound of a 64-bit integer does not help a reader, so it is omitted.
    if not isinstance(high, int | float) or high > 2**53:
        return f"{kind} from {low}"
    return f"{kind} from {low} to {high}"


def _either(kinds: list[str]) -> str:
    """Alternatives in words: "a, b or c"."""
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"


def _reference(schema: Schema) -> str:
    """The name to which `$ref` refers; "" without one."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _mapping(value: object) -> Schema:
    """`value` if it is an object, else {}."""
    return value if isinstance(value, Mapping) else {}

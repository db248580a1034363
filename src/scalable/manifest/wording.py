"""What pydantic finds wrong with a section, as a place in the manifest and a sentence."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from pydantic import BaseModel, ValidationError

from scalable.common.hints import suggestion
from scalable.manifest.source import Path, kind_of


class Finding(NamedTuple):
    """One thing that is wrong with a section."""

    #: Below the section.
    path: Path
    message: str
    #: It is about the value at `path`, not about its key.
    at_value: bool


def findings(
    model: type[BaseModel], data: Mapping[str, Any], error: ValidationError
) -> Iterator[Finding]:
    """Yield what is wrong with `data`, of which `model` raised `error`."""
    for item in error.errors(include_url=False):
        kind, location = item["type"], item["loc"]
        path, value = _walk(data, location, missing=kind == "missing")
        if kind == "extra_forbidden":
            hint = suggestion(str(path[-1]), _fields_at(model, path[:-1]))
            yield Finding(path, f"unknown key; {hint}", False)
        elif path == ("version",) and kind == "literal_error":
            yield Finding(path, f"must be 1, not {kind_of(value)}: no other version is known", True)
        else:
            at_value = kind != "missing" and location[-1:] != ("[key]",)
            yield Finding(path, _message(kind, value, cast("Any", item)), at_value)


#: By the beginning of pydantic's error type. Its own sentences are about Python.
_MESSAGES: Final = {
    "missing": "is missing",
    "value_error": "{error}",
    "int_": "must be a whole number, not {value}",
    "float_": "must be a number, not {value}",
    "bool_": "must be true or false, not {value}",
    "string_type": "must be text, not {value}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "{value} is not allowed: {pattern}",
    "greater_than_equal": "must be at least {ge:g}, not {value}",
    "greater_than": "must be more than {gt:g}, not {value}",
    "less_than_equal": "must be at most {le:g}, not {value}",
    "less_than": "must be less than {lt:g}, not {value}",
    "literal_error": "must be {expected}, not {value}",
    "list_type": "must be a list, not {value}",
    "dict_type": "must be a mapping of keys, not {value}",
    "model_": "must be a mapping of keys, not {value}",
    "finite_number": "must be a finite number, not {value}",
}
_PATTERNS: Final = {
    r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$": "letters, digits, `_`, `.`, `-` and spaces",
    r"^[A-Z]{3}$": "three capital letters, such as USD",
}


def _message(kind: str, value: Any, error: Mapping[str, Any]) -> str:
    template = next((text for start, text in _MESSAGES.items() if kind.startswith(start)), None)
    if template is None:
        return str(error.get("msg", kind))
    context: dict[str, Any] = dict(error.get("ctx") or {})
    if "pattern" in context:
        context["pattern"] = _PATTERNS.get(context["pattern"], context["pattern"])
    hint = ": write it in quotes" if kind == "string_type" and isinstance(value, bool) else ""
    return template.format(value=kind_of(value), **context) + hint


def _walk(data: Any, location: Sequence[Any], *, missing: bool) -> tuple[Path, Any]:
    """Follow pydantic's location through the data, without its labels that are not keys."""
    path: list[str | int] = []
    value = data
    for part in location:
        if isinstance(value, dict):
            found = cast("dict[Any, Any]", value)
            if part in found or missing:
                path.append(part)
                value = found.get(part, value)
        elif isinstance(value, list) and isinstance(part, int):
            listed = cast("list[Any]", value)
            path.append(part)
            value = listed[part] if part < len(listed) else None
    if location and location[-1] == "[key]":
        value = path[-1]
    return tuple(path), value


def _fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that a model allows at `path` below it."""
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field is not None else None
        if field is None or inner is None:
            return []
        if typing.get_origin(field.annotation) is dict:
            next(parts, None)  # a key of the user's own
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = map(_model_in, typing.get_args(annotation))
    return next((model for model in inner if model is not None), None)

"""``manifest.lock``: a digest of a manifest's content, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from scalable.manifest.source import SourceFloat, SourceInt, SourceText


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no white space, as UTF-8: equal content gives equal bytes."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def digest(content: Mapping[str, Any]) -> str:
    """``sha256:<hex>`` of the canonical form.

    Examples
    --------
    >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    True
    """
    return f"sha256:{hashlib.sha256(canonical(content)).hexdigest()}"


def plain(value: Any, *, with_variables: bool = False) -> Any:
    """Return a value of a source in Python's own types.

    `with_variables` keeps the text of values that variables were replaced in.
    """
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: plain(below, with_variables=with_variables) for key, below in items}
    if isinstance(value, list):
        return [plain(item, with_variables=with_variables) for item in cast("list[Any]", value)]
    raw = getattr(value, "raw", None)
    if with_variables and raw is not None:
        return raw
    for source_type, own_type in ((SourceInt, int), (SourceFloat, float), (SourceText, str)):
        if isinstance(value, source_type):
            return own_type(value)
    return value


def restore_variables(validated: Any, data: Any) -> Any:
    """Return validated content with variables by name: their values differ between machines.

    `data` is what the models validated.
    """
    if getattr(data, "raw", None) is not None:
        return data.raw
    if isinstance(data, dict) and isinstance(validated, dict):
        there = cast("dict[str, Any]", data)
        return {
            key: restore_variables(value, there[key]) if key in there else value
            for key, value in cast("dict[str, Any]", validated).items()
        }
    if isinstance(data, list) and isinstance(validated, list):
        values, made = cast("list[Any]", data), cast("list[Any]", validated)
        if len(values) == len(made):
            return [restore_variables(*pair) for pair in zip(made, values, strict=True)]
    return plain(data, with_variables=True) if _has_variables(data) else validated


def _has_variables(data: Any) -> bool:
    if isinstance(data, dict):
        return any(map(_has_variables, cast("dict[str, Any]", data).values()))
    if isinstance(data, list):
        return any(map(_has_variables, cast("list[Any]", data)))
    return getattr(data, "raw", None) is not None

"""Overlays: named changes of a manifest, merged deep.

- A mapping is merged key by key.
- A scalar or a list replaces the value.
- ``name+`` with a list adds the items that the list ``name`` does not have.
- ``null`` removes a key.

Merging the same overlay twice gives the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast


def merge(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the overlay `delta` applied; both stay as they are."""
    merged: dict[str, Any] = {key: deepcopy(value) for key, value in base.items()}
    for key, value in delta.items():
        if _adds(key):
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            start = cast("Mapping[str, Any]", below) if isinstance(below, Mapping) else {}
            merged[key] = merge(start, cast("Mapping[str, Any]", value))
        else:
            merged[key] = deepcopy(value)
    for key, value in delta.items():
        if _adds(key):
            _add(merged, key[:-1], value)
    return merged


def _adds(key: str) -> bool:
    return key.endswith("+") and len(key) > 1


def _add(merged: dict[str, Any], key: str, value: Any) -> None:
    more: list[Any] = deepcopy(cast("list[Any]", value)) if isinstance(value, list) else [value]
    there = merged.get(key)
    found: list[Any] = cast("list[Any]", there) if isinstance(there, list) else []
    merged[key] = [
        *found,
        *(item for n, item in enumerate(more) if item not in found and item not in more[:n]),
    ]

"""A run store in a YAML file: the manifest's `run_store`, or a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from scalable.common.run_stores import run_store
from scalable.manifest.source import Path, Source
from scalable_runs.stores.places import PlaceError, StoreSpec, secret_settings

#: Called with the place of what is wrong below the section, what it is, and whether it is the
#: value at that place.
Report = Callable[[Path, str, bool], None]

_PLAIN: Final = "must be a URL, the name of a type, or a mapping with `type` and `config`"


def checked_store(value: Any, report: Report) -> StoreSpec | None:
    """Return the store that a plain value means; tell what is wrong with it."""
    if not isinstance(value, str | Mapping):
        report((), _PLAIN, True)
        return None
    try:
        return run_store(cast("Any", value))
    except PlaceError as error:
        parts = error.key.split(".") if error.key and not isinstance(value, str) else []
        is_unknown = error.reason.startswith("unknown key")
        report(tuple(parts), error.reason, not is_unknown)
    return None


def hide_secrets(source: Source, place: Path, value: Any) -> None:
    """Leave values of settings that the type declares as secret out of copies of the text."""
    config: Any = value.get("config") if isinstance(value, Mapping) else None
    if isinstance(config, Mapping):
        for name in secret_settings(value):
            source.hide((*place, "config", name))

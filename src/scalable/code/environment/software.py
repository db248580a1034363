"""What many processes have in common: Python, the installed packages, Dask's configuration."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypedDict, cast

from scalable.code.environment.packages import installed

#: Entries of Dask's configuration, and characters of one.
MAX_SETTINGS: Final = 2_000
MAX_VALUE: Final = 1_000
_MAX_DEPTH: Final = 12


class Software(TypedDict, total=False):
    """What many processes have in common; fields as in environments.jsonl."""

    python: str
    implementation: str
    packages: dict[str, str]
    origins: dict[str, str]
    conda_packages: dict[str, str]
    dask_config: dict[str, Any]


class OwnSettings(NamedTuple):
    """What only the described process itself knows, as plain values."""

    prefix: str
    executable: str
    dask_config: dict[str, Any]

    @classmethod
    def here(cls, dask_config: Mapping[str, Any]) -> OwnSettings:
        """Those of this process."""
        return cls(sys.prefix, sys.executable or "", plain_config(dask_config))


def software_of(settings: OwnSettings) -> Software:
    """Describe what this interpreter runs with; takes some 10 ms for 200 packages."""
    found = installed(prefix=settings.prefix)
    software: Software = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "packages": found.packages,
        "dask_config": settings.dask_config,
    }
    if found.origins:
        software["origins"] = found.origins
    if found.conda:
        software["conda_packages"] = found.conda
    return software


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy Dask's configuration as plain values, bounded; anything else becomes its type's name."""
    left = [MAX_SETTINGS]
    copied: Any = _plain(config, left, 0)
    return copied if isinstance(copied, dict) else {}


def _plain(value: Any, left: list[int], depth: int) -> Any:
    kind = value.__class__
    left[0] -= 1
    if left[0] < 0 or depth >= _MAX_DEPTH:
        return "…"
    if kind in (int, float, bool, type(None)):
        return value
    if kind is str:
        return value[:MAX_VALUE]
    if kind is dict:
        items = list(cast("dict[Any, Any]", value).items())[:MAX_SETTINGS]
        return {_key(key): _plain(item, left, depth + 1) for key, item in items}
    if kind in (list, tuple, set, frozenset):
        return [_plain(item, left, depth + 1) for item in list(value)[:MAX_SETTINGS]]
    return f"<{kind.__name__}>"


def _key(key: Any) -> str:
    return key[:MAX_VALUE] if key.__class__ is str else f"<{type(key).__name__}>"

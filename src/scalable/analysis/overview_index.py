"""An index of the runs of a place, in the user's cache: it may be stale, and is never wrong."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, cast

import orjson

from scalable.analysis.overview import Overview
from scalable_runs.plain import parse_time

#: Size and time of run.json and of summary.json, by which one sees that a run has changed.
Stamp: TypeAlias = tuple[int, float, int, float]

#: Changes with the fields of an overview and of a stamp.
_VERSION: Final = 1
#: Fewer runs than that are read as fast as an index.
_MIN_RUNS: Final = 100
_FIELDS: Final = tuple(field.name for field in fields(Overview) if field.name != "path")


class OverviewIndex:
    """What is known of runs that have ended, by name; used by one thread.

    A row counts only with the stamp that the run has now. The file is replaced as a whole: two
    listings at a time do no harm, the later one is kept.
    """

    def __init__(self, path: Path | None, rows: dict[str, list[Any]]) -> None:
        self._path = path
        self._rows = rows
        self._used: dict[str, list[Any]] = {}
        self._news = 0

    @classmethod
    def open(cls, location: str) -> Self:
        """Return the index of a place; an empty one if there is none that can be read."""
        path = _path_of(location)
        content = b""
        with contextlib.suppress(OSError):
            if path is not None:
                content = path.read_bytes()
        return cls(path, _rows_of(content))

    def take_in(self, content: bytes) -> None:
        """Take in the rows of another index of this place; it may be damaged."""
        self._rows = _rows_of(content) | self._rows

    def content(self) -> bytes:
        """Return what was used or found, for :meth:`take_in`."""
        content = {"version": _VERSION, "fields": _FIELDS, "rows": self._used}
        return orjson.dumps(content, option=orjson.OPT_UTC_Z)

    @property
    def news(self) -> int:
        """How many runs were put since it was opened."""
        return self._news

    def get(self, name: str, stamp: Stamp) -> Overview | None:
        """Return what is known of a run, if it has not changed since; without its path."""
        row: Any = self._rows.get(name)
        try:
            if tuple(row[0]) != stamp:
                return None
            values = dict(zip(_FIELDS, row[1], strict=True))
            for at in ("started_at", "finished_at"):
                values[at] = parse_time(values[at])
            found = Overview(**values, path=Path())
        except (ValueError, LookupError, TypeError):
            return None
        self._used[name] = row
        return found

    def put(self, name: str, stamp: Stamp, run: Overview) -> None:
        """Remember a run that has ended."""
        values = asdict(replace(run, path=Path()))
        self._used[name] = [stamp, [values[name] for name in _FIELDS]]
        self._news += 1

    def save(self) -> None:
        """Write what was used or found, if that is more than a few runs; errors are no matter."""
        if self._path is None or not self._news or len(self._used) < _MIN_RUNS:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(self.content())
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _rows_of(content: bytes) -> dict[str, list[Any]]:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        found: Any = orjson.loads(content)
        is_known = found["version"] == _VERSION and found["fields"] == list(_FIELDS)
        if is_known and isinstance(found["rows"], dict):
            return cast("dict[str, list[Any]]", found["rows"])
    return {}


def _path_of(location: str) -> Path | None:
    """Return the file of a place's index; None without a home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    place = location if "://" in location else os.path.realpath(location)
    name = hashlib.sha256(place.encode(errors="replace")).hexdigest()[:32]
    return cache / "scalable" / "runs" / f"{name}.json" if cache.is_absolute() else None

"""Tells apart what the clusters of several writers of one run may name alike."""

from __future__ import annotations

from typing import Any, Final, cast

from scalable_runs.run_parts import file_of
from scalable_runs.schema import Record

#: Fields that name a task or a worker, and those that list tasks.
_NAMES: Final = ("task_id", "worker", "blame")
_LISTS: Final = ("tasks", "dependencies", "tasks_running")


def qualified(name: str, writer: str | None) -> str:
    """Return a name of a task or worker that is unique in a run with several writers."""
    return name if writer is None else f"{name} of {writer}"


def told_apart(record: Record) -> Record:
    """Return a record whose tasks, workers and files have names that are unique in the run.

    A record of a run with one writer is returned as it is.
    """
    writer = record.get("writer")
    if writer is None:
        return record
    made = _renamed(record, writer)
    details = made.get("details")
    if isinstance(details, dict):
        made["details"] = _renamed(cast("dict[str, Any]", details), writer)
    return made


def _renamed(table: dict[str, Any], writer: str) -> dict[str, Any]:
    made = dict(table)
    for name in _NAMES:
        if isinstance(made.get(name), str):
            made[name] = qualified(made[name], writer)
    for name in _LISTS:
        if isinstance(made.get(name), list):
            made[name] = [qualified(one, writer) for one in made[name] if isinstance(one, str)]
    path: Any = made.get("stderr_path")
    # A log that stayed on the worker's host is named `host:/path`.
    if isinstance(path, str) and path and ":/" not in path:
        made["stderr_path"] = file_of(writer, path)
    deaths: Any = made.get("deaths")
    if isinstance(deaths, list):
        rows = cast("list[Any]", deaths)
        made["deaths"] = [
            _renamed(cast("dict[str, Any]", row), writer) for row in rows if isinstance(row, dict)
        ]
    return made

"""Names of earlier versions, in records of runs that they made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from scalable.telemetry import semconv
from scalable.telemetry.resend.recorded_tree import is_ours
from scalable_runs.schema import Record


def renamed(record: Record) -> Record:
    """Return a record of spans.jsonl, logs.jsonl or metrics.jsonl with the present names.

    Only signals of the run's own scope are changed; those of user code are as they were.
    """
    if not is_ours(record):
        return record
    changed: dict[str, Any] = dict(record)
    _rename_attributes(changed)
    if changed.get("name") in semconv.RENAMED_METRICS:
        changed["name"] = semconv.RENAMED_METRICS[changed["name"]]
    if changed.get("event_name") in semconv.RENAMED_EVENTS:
        changed["event_name"] = semconv.RENAMED_EVENTS[changed["event_name"]]
    events = changed.get("events")
    if isinstance(events, list):
        changed["events"] = [_event(event) for event in cast("list[Any]", events)]
    return changed


def _event(event: Any) -> Any:
    if not isinstance(event, dict):
        return event
    changed = dict(cast("dict[str, Any]", event))
    _rename_attributes(changed)
    return changed


def _rename_attributes(of: dict[str, Any]) -> None:
    attributes = of.get("attributes")
    if isinstance(attributes, dict):
        found = cast("Mapping[str, Any]", attributes)
        names = semconv.RENAMED_ATTRIBUTES
        of["attributes"] = {names.get(name, name): value for name, value in found.items()}

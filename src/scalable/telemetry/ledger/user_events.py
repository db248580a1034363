"""Artifacts, costs, cache look-ups and metrics that user code records."""

from __future__ import annotations

from typing import Any

from scalable import facts
from scalable.telemetry import semconv
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.tasks import TaskBook
from scalable.telemetry.record_map import EVENT_USER, RECORD_MAP
from scalable.telemetry.signals.usage import UserPoint
from scalable_runs.redact import Redactor


def record_user_event(
    fact: facts.UserEvent, sink: SignalSink, tasks: TaskBook, redact: Redactor
) -> None:
    """Make a signal of what user code recorded, in its attempt."""
    fields = redact.attributes(
        {name: value for name, value in fact.fields.items() if value is not None}
    )
    attributes: dict[str, Any] = {}
    ids = sink.root
    if fact.key is not None:
        task = tasks.tasks.get(fact.key)
        attributes[semconv.TASK_KEY] = tasks.shown(fact.key)
        attributes[semconv.TASK_NAME] = tasks.name_of(fact.key)
        placement = (task.placement if task is not None else None) or {}
        for name in (semconv.COMPONENT, semconv.TAG):
            if name in placement:
                attributes[name] = placement[name]
        if fact.run_id is not None:
            ids = sink.ids(fact.key, fact.run_id, task.parent if task is not None else None)
    if fact.event_type == "metric":
        name, value = str(fields.pop("name", "")), float(fields.pop("value", 0.0))
        unit, step = str(fields.pop("unit", "")), fields.pop("step", None)
        sink.user_metrics.add(name, value, unit, step if type(step) is int else None)
        tasks.attempts.described.note_metric(fact, name, value)
        sink.user_points.append(
            UserPoint(
                fact.time,
                name,
                value,
                unit,
                attributes | dict(fields.pop("attributes", None) or ()),
            )
        )
        return
    if fact.event_type in EVENT_USER:
        names = RECORD_MAP.attributes[fact.event_type]
        attributes[semconv.RECORD] = fact.event_type
        attributes |= {names[name]: value for name, value in fields.items() if name in names}
        sink.event(EVENT_USER[fact.event_type], fact.time, attributes, ids)

"""How large the graphs of submissions are: their spans are written before it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from scalable.telemetry import semconv
from scalable.telemetry.resend.earlier_names import renamed
from scalable.telemetry.signals.spans import SCOPE
from scalable_runs.otel.decode import UNDECODABLE, context_of, decode_span
from scalable_runs.schema import Record

_FIELDS: Final = {semconv.GRAPH_TASKS: "tasks", semconv.GRAPH_LAYERS: "layers"}

#: Attributes of submissions, by span id.
Sizes: TypeAlias = Mapping[int, Mapping[str, Any]]


def recorded_sizes(records: Iterable[Record]) -> Sizes:
    """Read the records of graphs.jsonl."""
    sizes: dict[int, dict[str, Any]] = {}
    for record in records:
        with suppress(*UNDECODABLE):
            ids = context_of(record)
            found = {name: record.get(field) for name, field in _FIELDS.items()}
            if ids is not None:
                sizes[ids.span_id] = {name: it for name, it in found.items() if it is not None}
    return sizes


def decoded(record: Record, sizes: Sizes, resource: Resource) -> ReadableSpan:
    """The span of a record of the run's own, with its size if it is a submission."""
    record = renamed(record)
    ids = context_of(record) if sizes else None
    found = sizes.get(ids.span_id) if ids is not None else None
    if found:
        record = {**record, "attributes": {**(record.get("attributes") or {}), **found}}
    return decode_span(record, resource, SCOPE)

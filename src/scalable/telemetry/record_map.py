"""How signals become records of the run directory."""

from __future__ import annotations

from typing import Final

from scalable.telemetry import instruments, semconv
from scalable_runs.fields import nested_fields
from scalable_runs.otel.record_map import RecordMap
from scalable_runs.schema import DECLARATION_OF, FILE_OF

#: Bytes per unit of the fields `…_gb`.
GIGABYTE: Final = 1e9

#: Event of each type of record that the program or a task makes.
EVENT_USER: Final = {
    "artifact": semconv.EVENT_ARTIFACT,
    "cache": semconv.EVENT_CACHE,
    "cost": semconv.EVENT_COST,
}


def _record_fields(event_type: str) -> dict[str, str]:
    """Return the field that each attribute becomes in records of one event type."""
    fields = nested_fields(DECLARATION_OF[FILE_OF[event_type]])
    found: dict[str, str] = {}
    for attribute, names in semconv.FIELDS.items():
        for name in names:
            name = name.removeprefix(f"{event_type}.")
            path = name if name in fields else f"details.{name}"
            if path in fields:
                found[attribute] = path
    return found


#: Types of records that signals become.
_ROUTED: Final = (
    *("task", "worker", "failure", "resource", "artifact", "cache", "cost"),
    "graph",
    "environment",
    "function",
)

#: Which attribute becomes which field.
RECORD_MAP: Final = RecordMap(
    route=semconv.RECORD,
    fields={event_type: _record_fields(event_type) for event_type in _ROUTED},
    constants={"resource": {"entity_type": "task"}},
    metrics={
        instruments.WORKER_CPU.name: ("observed_cpu", 1.0),
        instruments.WORKER_MEMORY.name: ("observed_memory_gb", 1 / GIGABYTE),
        instruments.WORKER_MEMORY_LIMIT.name: ("observed_memory_limit_gb", 1 / GIGABYTE),
    },
)

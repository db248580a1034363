"""What tasks carry from the client: their parent span, and what they request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanContext

from scalable.facts.graphs import TaskRequest, task_request_of
from scalable.facts.identity import SUBMISSION, Above, carried, lineage_of
from scalable.facts.protocol import BLOCK, LABELS, LAYERS, PLACEMENT, SUPPRESSED
from scalable.telemetry import semconv
from scalable.telemetry.signals.spans import not_sent, parent_of
from scalable_runs.redact import Redactor

#: Carriers whose content is kept.
_MAX_CARRIERS: Final = 4096


class Carried(NamedTuple):
    """The content of a carrier."""

    #: Parent span of attempts; None: the run's root.
    parent: SpanContext | None = None
    #: What its tasks request, as attributes.
    placement: dict[str, Any] | None = None
    #: Of what a task submits: the submission and the spans above it, the nearest first.
    lineage: tuple[Above, ...] = ()
    #: Whether the layers of its graph have spans.
    has_layers: bool = False
    #: Attributes of the spans of its tasks, from baggage.
    labels: dict[str, Any] | None = None
    #: Id of the span of the block of Dask's that it is in; 0 for none.
    block: int = 0
    #: What a task asked for; its submission is the parent. None for graphs of the program.
    sent: TaskRequest | None = None

    @property
    def submission(self) -> SpanContext | None:
        """The parent, if it is a submission of this run, and not the task of an older worker."""
        is_one = not self.lineage or self.lineage[0].kind == SUBMISSION
        return self.parent if is_one else None


class CarrierReader:
    """Reads each carrier once; called by the recorder's thread only."""

    def __init__(
        self, run: str, components: Mapping[str, Mapping[str, Any]], redact: Redactor
    ) -> None:
        self._run = run
        self._components = components
        self._redact = redact
        self._known: dict[str | None, Carried] = {None: Carried()}

    def is_new(self, carrier: str | None) -> bool:
        """Whether the carrier was not read before, or is forgotten."""
        return carrier not in self._known

    def read(self, carrier: str | None) -> Carried:
        """The content of a carrier; tasks of one submission have equal ones, and share it."""
        found = self._known.get(carrier)
        if found is None:
            if len(self._known) > _MAX_CARRIERS:
                del self._known[next(name for name in self._known if name is not None)]
            fields = carried(carrier)
            asked, labels = fields.get(PLACEMENT), fields.get(LABELS)
            parent = parent_of(fields) if fields.get("run") == self._run else None
            if parent is not None and SUPPRESSED in fields:
                parent = not_sent(parent)
            found = self._known[carrier] = Carried(
                parent,
                None if asked is None else self.placement(*json.loads(asked)),
                lineage_of(fields),
                bool(fields.get(LAYERS)),
                self._redact.attributes(labels) if isinstance(labels, dict) else None,
                _id_of(fields.get(BLOCK)),
                task_request_of(fields),
            )
        return found

    def placement(self, component: Any, tag: Any, workers: Any) -> dict[str, Any]:
        """What a task requests, as attributes."""
        wants = self._components.get(component, {}) if isinstance(component, str) else {}
        asked = {
            semconv.COMPONENT: component,
            semconv.TAG: tag,
            semconv.REQUESTED_WORKERS: workers,
            semconv.REQUESTED_CPUS: wants.get("cpus"),
            semconv.REQUESTED_MEMORY: wants.get("memory"),
            semconv.REQUESTED_WALLTIME: wants.get("walltime"),
        }
        return self._redact.attributes(
            {name: value for name, value in asked.items() if value is not None}
        )


def _id_of(text: Any) -> int:
    try:
        return int(text or "0", 16)
    except (TypeError, ValueError):  # a peer may send anything
        return 0

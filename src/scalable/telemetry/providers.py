"""Resource and scope of our signals, and the exits they leave by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import scalable
from scalable.telemetry import semconv
from scalable.telemetry.instruments import UsagePoint, usage_metrics
from scalable.telemetry.ledger import Signals
from scalable_runs.exporter import RunsLogExporter, RunsMetricExporter, RunsSpanExporter
from scalable_runs.layout import Record
from scalable_runs.writer import RunWriter

SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, scalable.__version__)


def make_resource(run: str, project: str) -> Resource:
    """The resource of a run: what the environment says (``OTEL_SERVICE_NAME``, …) comes first."""
    attributes: Mapping[str, Any] = {semconv.RUN_ID: run, semconv.PROJECT: project}
    resource = Resource.create(attributes)
    service = str(resource.attributes.get("service.name", ""))
    if not service or service.startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": project}))
    return resource


class Exits:
    """The exporters that every signal goes to; called by the recorder's thread only."""

    def __init__(
        self,
        writer: RunWriter,
        resource: Resource,
        on_records: Callable[[str, Sequence[Record]], None],
    ) -> None:
        self._resource = resource
        self._spans = RunsSpanExporter(
            writer, record_map=semconv.RECORD_MAP, resource=resource, on_records=on_records
        )
        self._logs = RunsLogExporter(
            writer, record_map=semconv.RECORD_MAP, resource=resource, on_records=on_records
        )
        self._metrics = RunsMetricExporter(
            writer, record_map=semconv.RECORD_MAP, resource=resource, on_records=on_records
        )

    def export(self, stretches: Sequence[Signals], points: Sequence[UsagePoint]) -> None:
        """Hand over everything, in order."""
        for stretch in stretches:
            if stretch.logs:
                self._logs.export(stretch.logs)
            if stretch.spans:
                self._spans.export(stretch.spans)
        if points:
            self._metrics.export(usage_metrics(points, self._resource, SCOPE))

    def shutdown(self) -> None:
        """Nothing comes any more."""
        self._spans.shutdown()
        self._logs.shutdown()
        self._metrics.shutdown()

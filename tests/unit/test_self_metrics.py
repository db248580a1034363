"""What is sent and dropped is counted under OpenTelemetry's names for exporters and processors."""

from __future__ import annotations

from time import monotonic
from typing import Any

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource

from scalable.telemetry import instruments
from scalable.telemetry.export.shipping import Limits, Shipper, SignalName
from scalable.telemetry.export.sinks import ExporterSink, UndeliverableError
from scalable.telemetry.metrics.self_metrics import shipper_metrics
from scalable.telemetry.signals.spans import SCOPE

PROCESSOR = "scalable.telemetry.shipping.Shipper"


class Refusing:
    """A sink whose backend takes every second batch."""

    component = dict

    def __init__(self) -> None:
        self.batches = 0

    def send(self, batch: Any) -> None:
        self.batches += 1
        if self.batches % 2:
            raise UndeliverableError("Failed to export, error code: 404", permanent=True)

    def shutdown(self) -> None:
        pass


def shipper(signal: SignalName, sink: Any, items: list[Any]) -> Shipper[Any]:
    made: Shipper[Any] = Shipper(signal, sink, Limits(6, 2, 60.0), lambda _: None)
    made.put(items)
    made.close(monotonic() + 30)
    return made


def test_spans_are_counted_by_what_became_of_them():
    # Of ten only six fit; of these three batches the first and the last are refused.
    values = shipper_metrics([shipper("traces", Refusing(), list(range(10)))])
    exporter, processor = ("builtins.dict", "builtins.dict/0"), (PROCESSOR, f"{PROCESSOR}/0")
    assert values[instruments.SPANS_EXPORTED] == {exporter: 2, (*exporter, "404"): 4}
    assert values[instruments.SPANS_PROCESSED] == {processor: 6, (*processor, "queue_full"): 4}
    assert values[instruments.SPANS_QUEUED] == {processor: 0}
    assert values[instruments.SPANS_CAPACITY] == {processor: 6}
    assert values[instruments.EXPORT_FAILURES] == {("traces",): 2}


def test_two_exporters_of_a_kind_have_names_of_their_own():
    both = [shipper("logs", Refusing(), [1]) for _ in range(2)]
    exported = shipper_metrics(both)[instruments.LOGS_EXPORTED]
    assert {name for _, name, *_ in exported} == {"builtins.dict/0", "builtins.dict/1"}


def test_metrics_are_counted_by_point():
    points = [NumberDataPoint({}, 0, 0, number) for number in range(5)]
    scope = ScopeMetrics(SCOPE, [Metric("m", "", "", Gauge(points))], "")
    data = MetricsData([ResourceMetrics(Resource({}), [scope], "")])
    values = shipper_metrics([shipper("metrics", Refusing(), [data, data, data])])
    assert sum(values[instruments.POINTS_EXPORTED].values()) == 15
    assert list(values[instruments.POINTS_INFLIGHT].values()) == [0]


def test_exporters_of_opentelemetry_have_the_names_of_its_conventions():
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    sink = ExporterSink[Any](OTLPSpanExporter(endpoint="http://127.0.0.1:1"))
    exported = shipper_metrics([shipper("traces", sink, [])])[instruments.SPANS_EXPORTED]
    assert exported == {("otlp_http_span_exporter", "otlp_http_span_exporter/0"): 0}

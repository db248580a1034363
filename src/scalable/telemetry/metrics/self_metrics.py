"""Metrics of the telemetry itself: what was recorded, sent, dropped, and what waits.

Names are those of OpenTelemetry's conventions for SDKs where they have one: a shipper is a
processor with a queue, and its sink an exporter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from scalable.telemetry import instruments
from scalable.telemetry.export.shipping import Shipper, SignalName
from scalable.telemetry.instrument import Instrument
from scalable.telemetry.metrics.snapshot import Attributes

#: Value of `error.type` for what did not fit into a queue.
QUEUE_FULL: Final = "queue_full"

#: The type of a shipper as a component of an SDK: backends group by it, so it stays the same.
_PROCESSOR: Final = "scalable.telemetry.shipping.Shipper"
#: Parts of the names that OpenTelemetry gives to its own exporters.
_TRANSPORTS: Final = {"proto.grpc": "otlp_grpc", "proto.http": "otlp_http"}
_KINDS: Final[Mapping[SignalName, str]] = {"traces": "span", "metrics": "metric", "logs": "log"}

Values = dict[Instrument, dict[Attributes, float]]


class _Of(NamedTuple):
    """Instruments of one signal."""

    exported: Instrument
    #: Items that wait.
    waiting: Instrument
    #: Items that left the queue; None: there is no such name.
    processed: Instrument | None
    capacity: Instrument | None


_INSTRUMENTS: Final[Mapping[SignalName, _Of]] = {
    "traces": _Of(
        instruments.SPANS_EXPORTED,
        instruments.SPANS_QUEUED,
        instruments.SPANS_PROCESSED,
        instruments.SPANS_CAPACITY,
    ),
    "logs": _Of(
        instruments.LOGS_EXPORTED,
        instruments.LOGS_QUEUED,
        instruments.LOGS_PROCESSED,
        instruments.LOGS_CAPACITY,
    ),
    "metrics": _Of(instruments.POINTS_EXPORTED, instruments.POINTS_INFLIGHT, None, None),
}


def shipper_metrics(shippers: Sequence[Shipper[Any]]) -> Values:
    """Return the counts of shippers, as metrics."""
    values: Values = {each: {} for of in _INSTRUMENTS.values() for each in of if each is not None}
    failures: Counter[Attributes] = Counter()
    for shipper, exporter, processor in _components(shippers):
        counts, of = shipper.counts, _INSTRUMENTS[shipper.signal]
        waiting = shipper.waiting
        failures[shipper.signal,] += counts.failures
        exported = values[of.exported]
        exported[exporter] = counts.sent
        for reason, count in list(counts.failed_by.items()):
            exported[*exporter, reason] = count
        if of.processed is None or of.capacity is None:
            values[of.waiting][exporter] = waiting
            if counts.dropped:
                exported[*exporter, QUEUE_FULL] = counts.dropped
            continue
        values[of.waiting][processor] = waiting
        values[of.capacity][processor] = shipper.capacity
        processed = values[of.processed]
        processed[processor] = counts.sent + counts.failed
        if counts.dropped:
            processed[*processor, QUEUE_FULL] = counts.dropped
    values[instruments.EXPORT_FAILURES] = dict(failures)
    return values


def _components(
    shippers: Sequence[Shipper[Any]],
) -> Iterator[tuple[Shipper[Any], Attributes, Attributes]]:
    """Each shipper with type and name of its exporter, and of itself as a processor."""
    numbers: Counter[str] = Counter()

    def named(kind: str) -> Attributes:
        number = numbers[kind]
        numbers[kind] += 1
        return kind, f"{kind}/{number}"

    for shipper in shippers:
        yield shipper, named(_exporter_type(shipper)), named(_PROCESSOR)


def _exporter_type(shipper: Shipper[Any]) -> str:
    component = shipper.sink.component
    for part, name in _TRANSPORTS.items():
        if component.__module__.startswith(f"opentelemetry.exporter.otlp.{part}."):
            return f"{name}_{_KINDS[shipper.signal]}_exporter"
    return f"{component.__module__}.{component.__qualname__}"

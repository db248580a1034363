"""Snapshots of a run's metrics, as OpenTelemetry data or in an application's provider."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from opentelemetry import metrics as api
from opentelemetry.context import Context
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from scalable.telemetry import instruments, semconv
from scalable.telemetry.instrument import TASK_BOUNDS, Instrument
from scalable.telemetry.metrics.metering import result_of
from scalable.telemetry.metrics.snapshot import (
    SCALE,
    Attributes,
    Distribution,
    Snapshot,
    Value,
    number_of,
)
from scalable.telemetry.signals.spans import SCOPE, span_context
from scalable_runs.schema import Record

#: Buckets of an exponential histogram, the specification's default.
MAX_BUCKETS: Final = 160
#: Seconds for which an application's provider shows the counts of a run that has ended.
SHOWN_AFTER: Final = 300.0

_logger = logging.getLogger("scalable")

_SDK_CLASSES: Final[dict[str, type]] = {
    "counter": sdk.Counter,
    "updowncounter": sdk.UpDownCounter,
    "histogram": sdk.Histogram,
}


class Reader:
    """Makes OpenTelemetry's data of snapshots; called by the recorder's thread only.

    Temporality and aggregation are those that the exporter prefers; by default cumulative, with
    explicit buckets. `started` is when counting began, in nanoseconds.
    """

    def __init__(self, resource: Resource, started: int, exporter: Any = None) -> None:
        self._resource = resource
        self._started = self._since = started
        self._temporality: Mapping[type, AggregationTemporality] = (
            getattr(exporter, "_preferred_temporality", None) or {}
        )
        aggregation = getattr(exporter, "_preferred_aggregation", None) or {}
        self._exponential = isinstance(
            aggregation.get(sdk.Histogram), ExponentialBucketHistogramAggregation
        )
        self._before: Snapshot = {}

    def read(self, snapshot: Snapshot, now: int) -> MetricsData:
        """Return what to export at the time `now` (nanoseconds)."""
        metrics = [
            Metric(instrument.name, instrument.description, instrument.unit, data)
            for instrument, values in snapshot.items()
            if (data := self._data(instrument, values, now)) is not None
        ]
        self._before = snapshot
        self._since = now
        return MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(SCOPE, metrics, "")], "")]
        )

    def _data(self, instrument: Instrument, values: Mapping[Attributes, Value], now: int) -> Any:
        if not values:
            return None
        if instrument.kind == "gauge":
            return Gauge(
                [
                    NumberDataPoint(_attributes(instrument, key), 0, now, number_of(value))
                    for key, value in values.items()
                ]
            )
        temporality = self._temporality.get(
            _SDK_CLASSES[instrument.kind], AggregationTemporality.CUMULATIVE
        )
        is_delta = temporality is AggregationTemporality.DELTA
        start = self._since if is_delta else self._started
        before = self._before.get(instrument, {}) if is_delta else {}
        points: list[Any] = []
        for key, value in values.items():
            attributes, old = _attributes(instrument, key), before.get(key)
            if not isinstance(value, Distribution):
                points.append(NumberDataPoint(attributes, start, now, value - number_of(old)))
                continue
            if isinstance(old, Distribution):
                value = value.since(old)
            if value.count:
                make = _exponential_point if self._exponential else _explicit_point
                points.append(make(value, attributes, start, now))
        if instrument.kind != "histogram":
            return Sum(points, temporality, instrument.kind == "counter")
        histogram = ExponentialHistogram if self._exponential else Histogram
        return histogram(points, temporality) if points else None


def _explicit_point(
    value: Distribution, attributes: dict[str, str], start: int, now: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes,
        start,
        now,
        value.count,
        value.total,
        value.buckets,
        TASK_BOUNDS,
        value.low,
        value.high,
        value.exemplars,
    )


def _exponential_point(
    value: Distribution, attributes: dict[str, str], start: int, now: int
) -> ExponentialHistogramDataPoint:
    scaled, scale = dict(value.scaled), SCALE
    while scaled and max(scaled) - min(scaled) >= MAX_BUCKETS:
        halved: defaultdict[int, int] = defaultdict(int)
        for index, count in scaled.items():
            halved[index >> 1] += count
        scaled, scale = dict(halved), scale - 1
    first = min(scaled, default=0)
    counts = [scaled.get(index, 0) for index in range(first, max(scaled, default=-1) + 1)]
    return ExponentialHistogramDataPoint(
        attributes,
        start,
        now,
        value.count,
        value.total,
        scale,
        value.zeros,
        Buckets(first, counts),
        Buckets(0, []),
        0,
        value.low,
        value.high,
        value.exemplars,
    )


class _Shown(NamedTuple):
    """The newest snapshot of a run."""

    attributes: Mapping[str, Any]
    snapshot: Snapshot
    #: Until when it is shown, by the monotonic clock; None while the run goes on.
    until: float | None


class ApplicationInstruments:
    """Instruments of a meter provider that belongs to the application.

    The callbacks are called by the thread that reads the provider, everything else by the threads
    of recorders. Counts are exported by callbacks; values of histograms must be recorded one by
    one. The resource is the application's, so each point has the run and its project as attributes.
    """

    _of_provider: Final[dict[int, tuple[Any, ApplicationInstruments]]] = {}

    def __init__(self, provider: Any) -> None:
        meter: api.Meter = provider.get_meter(SCOPE.name, SCOPE.version, SCOPE.schema_url)
        self._provider = provider
        self._runs: dict[str, _Shown] = {}
        self._lock = threading.Lock()
        create: dict[str, Any] = {
            "counter": meter.create_observable_counter,
            "updowncounter": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        self._histograms: dict[Instrument, Any] = {}
        #: Kept here, because a provider may keep weak references only.
        self._observed: list[Any] = [meter]
        for instrument in instruments.INSTRUMENTS:
            name, unit, description = instrument.name, instrument.unit, instrument.description
            if instrument.kind == "histogram":
                self._histograms[instrument] = meter.create_histogram(
                    name, unit, description, explicit_bucket_boundaries_advisory=instrument.bounds
                )
            else:
                callbacks = [self._callback(instrument)]
                self._observed.append(create[instrument.kind](name, callbacks, unit, description))

    @classmethod
    def of(cls, provider: Any) -> ApplicationInstruments:
        """Return those of `provider`, created once: a program may have several runs."""
        known = cls._of_provider.get(id(provider))
        if known is None or known[0] is not provider:
            known = cls._of_provider[id(provider)] = (provider, cls(provider))
        return known[1]

    def record(
        self,
        run: Mapping[str, Any],
        attempts: Sequence[Record],
        shown: Callable[[str], str],
        is_sent: Callable[[SpanContext], bool],
    ) -> None:
        """Record attempts that ended in a run, which is given by its attributes.

        `shown` returns the name under which a task is counted, `is_sent` whether a span can be
        found where exemplars lead.
        """
        for record in attempts:
            ids = span_context(int(record["trace_id"], 16), int(record["span_id"], 16))
            # The SDK takes exemplars from the span in the context.
            context = Context()
            if is_sent(ids):
                context = set_span_in_context(NonRecordingSpan(ids), context)
            values = (shown(record["task_name"]), result_of(record))
            for instrument, field in (
                (instruments.TASK_DURATION, "duration_s"),
                (instruments.TASK_QUEUED, "queue_s"),
                (instruments.TASK_TRANSFER, "transfer_s"),
            ):
                if field in record:
                    attributes = {**run, **dict(zip(instrument.attributes, values, strict=False))}
                    self._histograms[instrument].record(record[field], attributes, context)

    def show(self, run: Mapping[str, Any], snapshot: Snapshot) -> None:
        """The newest snapshot of a run."""
        self._replace(_Shown(run, snapshot, None))

    def end(self, run: Mapping[str, Any], snapshot: Snapshot, deadline: float) -> None:
        """A run has ended: its last state is collected once; then gauges and workers are removed.

        Its counts stay for :data:`SHOWN_AFTER`, for readers that come by from time to time. The
        provider is flushed until `deadline` (:func:`time.monotonic`).
        """
        self.show(run, snapshot)
        self._flush(deadline)
        counts: Snapshot = {
            instrument: values
            for instrument, values in snapshot.items()
            if instrument.kind != "gauge" and semconv.WORKER_NAME not in instrument.attributes
        }
        self._replace(_Shown(run, counts, monotonic() + SHOWN_AFTER))

    def _flush(self, deadline: float) -> None:
        flush = getattr(self._provider, "force_flush", None)
        if not callable(flush):
            return

        def collect() -> None:
            try:
                flush()
            except Exception as error:
                _logger.debug("the application's meter provider was not flushed", exc_info=error)

        thread = threading.Thread(target=collect, name="scalable-flush-metrics", daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - monotonic()))

    def _replace(self, shown: _Shown) -> None:
        now = monotonic()
        with self._lock:
            runs = dict(self._runs)
            runs[str(shown.attributes.get(semconv.RUN_ID))] = shown
            self._runs = {
                run: each for run, each in runs.items() if each.until is None or each.until > now
            }

    def _callback(self, instrument: Instrument) -> Any:
        def observe(_: api.CallbackOptions) -> Iterable[api.Observation]:
            now = monotonic()
            return [
                api.Observation(
                    number_of(value), {**shown.attributes, **_attributes(instrument, key)}
                )
                for shown in self._runs.values()
                if shown.until is None or shown.until > now
                for key, value in shown.snapshot.get(instrument, {}).items()
            ]

        return observe


def _attributes(instrument: Instrument, key: Attributes) -> dict[str, str]:
    return dict(zip(instrument.attributes, key, strict=False))


def keep_exemplars(
    data: MetricsData, is_expected: Callable[[int, int], bool], *, unlinked: bool = False
) -> None:
    """Remove from relayed metrics the exemplars of spans that are not sent.

    With `unlinked` they stay, without the ids of the span.
    """

    def kept(exemplar: Exemplar) -> Exemplar | None:
        trace_id, span_id = exemplar.trace_id, exemplar.span_id
        if trace_id and span_id and is_expected(trace_id, span_id):
            return exemplar
        if not unlinked:
            return None
        return Exemplar(exemplar.filtered_attributes, exemplar.value, exemplar.time_unix_nano)

    for of_resource in data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in metric.data.data_points:
                    exemplars: Any = point.exemplars
                    if exemplars:
                        exemplars[:] = filter(None, map(kept, exemplars))

"""Metrics of a run, summed up by ourselves: a record of the SDK's costs as much as all the rest."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from opentelemetry import metrics as api
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
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from scalable.facts import Sample, SchedulerSample
from scalable.telemetry import instruments, semconv
from scalable.telemetry.instruments import TASK_BOUNDS, Instrument
from scalable_runs.plain import parse_nanoseconds
from scalable_runs.schema import TASKS, WORKERS, Record
from scalable_runs.summary import NameCounts

#: Task names told apart; tasks of further names are summed up under one.
MAX_NAMES: Final = 200
#: Workers whose gauges are told apart.
MAX_WORKERS: Final = 1_000
#: Buckets of an exponential histogram, the specification's default.
MAX_BUCKETS: Final = 160
#: Finest resolution of an exponential histogram: eight buckets for each doubling.
_SCALE: Final = 3

_RESULTS: Final = {
    "succeeded": "success",
    "retried": "failure",
    "rescheduled": "rescheduled",
    "lost": "error",
    "failed": "failure",
    "cancelled": "cancellation",
}


def result_of(record: Record) -> str:
    """How an attempt ended, by the line of its end."""
    return _RESULTS["rescheduled" if "rescheduled" in record else record["state"]]


#: The values of the attributes that an instrument has, in its order.
Attributes: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's state: cumulative, but for the extremes and exemplars of the last interval."""

    count: int
    total: float
    low: float
    high: float
    buckets: tuple[int, ...]
    zeros: int
    #: Index → count at :data:`_SCALE`; empty where no reader asks for it.
    scaled: Mapping[int, int]
    last_low: float
    last_high: float
    exemplars: tuple[Exemplar, ...]


Value: TypeAlias = float | Distribution
#: Everything at one time.
Snapshot: TypeAlias = dict[Instrument, dict[Attributes, Value]]


class _Distribution:
    __slots__ = (
        "buckets",
        "count",
        "high",
        "last_high",
        "last_low",
        "latest",
        "low",
        "scaled",
        "slowest",
        "total",
        "zeros",
    )

    def __init__(self, *, scaled: bool) -> None:
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0
        self.buckets = [0] * (len(TASK_BOUNDS) + 1)
        self.zeros = 0
        self.scaled: defaultdict[int, int] | None = defaultdict(int) if scaled else None
        self.last_low = math.inf
        self.last_high = -1.0
        self.slowest: Record | None = None
        self.latest: Record | None = None

    def add(self, value: float, record: Record) -> None:
        self.count += 1
        self.total += value
        self.buckets[bisect_left(TASK_BOUNDS, value)] += 1
        if value > self.last_high:
            self.last_high = value
            self.slowest = record
        if value < self.last_low:
            self.last_low = value
        self.latest = record
        if self.scaled is not None:
            if value > 0.0:
                self.scaled[math.ceil(math.log2(value) * (1 << _SCALE)) - 1] += 1
            else:
                self.zeros += 1

    def take(self, field: str) -> Distribution:
        """The state now; what is of the interval begins anew."""
        self.low = min(self.low, self.last_low)
        self.high = max(self.high, self.last_high)
        exemplars: dict[int, Exemplar] = {}
        for record in (self.slowest, self.latest):
            if record is not None:
                exemplars[id(record)] = _exemplar(record, record[field])
        taken = Distribution(
            self.count,
            self.total,
            self.low,
            self.high,
            tuple(self.buckets),
            self.zeros,
            dict(self.scaled or {}),
            self.last_low,
            self.last_high,
            tuple(exemplars.values()),
        )
        self.last_low, self.last_high = math.inf, -1.0
        self.slowest = self.latest = None
        return taken


class _Series:
    """Ended attempts of one task name and final state."""

    __slots__ = ("attempts", "durations", "output")

    def __init__(self, *, scaled: bool) -> None:
        self.attempts = 0
        self.output = 0
        self.durations = _Distribution(scaled=scaled)


class _Name:
    __slots__ = ("queueing", "transfers")

    def __init__(self, *, scaled: bool) -> None:
        self.queueing = _Distribution(scaled=scaled)
        self.transfers = _Distribution(scaled=scaled)


class Meter:
    """Sums up a run; fed and read by the recorder's thread only.

    Most of it is counted already where the summary is made; of each task this adds the histograms.

    Parameters
    ----------
    scaled : bool
        Some reader wants exponential histograms.
    """

    def __init__(self, *, scaled: bool = False) -> None:
        self._scaled = scaled
        self._series: dict[tuple[str, str], _Series] = {}
        self._names: dict[str, _Name] = {}
        self._workers: dict[str, int] = {}
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._samples: dict[str, tuple[str, Sample]] = {}
        #: Bytes each worker had sent when it was first seen, and those of workers that are gone.
        self._sent_before: dict[str, int] = {}
        self._sent_gone = 0
        self._spill_before: tuple[int, int] | None = None
        self.instruments: ApplicationInstruments | None = None

    def add(self, file: str, records: Sequence[Record]) -> None:
        """Take in records as they were written, in their order."""
        if file == TASKS:
            self._add_tasks(records)
        elif file == WORKERS:
            for record in records:
                self._add_worker(record)

    def _add_tasks(self, records: Iterable[Record]) -> None:
        # Once a task, on the recorder's way: no call that is not needed.
        series_of, names = self._series, self._names
        ends = _RESULTS
        live = self.instruments
        for record in records:
            state = record["state"]
            if state not in ends or "span_id" not in record:
                continue
            name = record["task_name"]
            if state == "failed" and "duration_s" not in record:
                state = "lost"  # the scheduler itself failed it
            elif state == "retried" and "rescheduled" in record:
                state = "rescheduled"
            series = series_of.get((name, state))
            if series is None:
                series, name = self._new_series(name, state)
            series.attempts += 1
            by_name = names.get(name) or names[semconv.OTHER_NAMES]
            get = record.get
            duration = get("duration_s")
            if duration is not None:
                series.durations.add(duration, record)
            queued = get("queue_s")
            if queued is not None:
                by_name.queueing.add(queued, record)
            transfer = get("transfer_s")
            if transfer is not None:
                by_name.transfers.add(transfer, record)
            size = get("nbytes")
            if size is not None and size > 0:
                series.output += size
            if live is not None:
                live.record(name if name in names else semconv.OTHER_NAMES, record)

    def _new_series(self, name: str, state: str) -> tuple[_Series, str]:
        names = self._names
        if name not in names:
            if len(names) >= MAX_NAMES:
                name = semconv.OTHER_NAMES
            if name not in names:
                names[name] = _Name(scaled=self._scaled)
        series = self._series.get((name, state))
        if series is None:
            series = self._series[name, state] = _Series(scaled=self._scaled)
        return series, name

    def _add_worker(self, record: Record) -> None:
        address, state = record.get("worker", ""), record.get("state")
        details = record.get("details") or {}
        if state == "ready":
            self._workers[address] = int(details.get("nthreads") or 0)
        elif state in ("lost", "removed"):
            self._workers.pop(address, None)
            _, sample = self._samples.pop(address, ("", None))
            if sample is not None:
                self._sent_gone += sample.sent - self._sent_before.pop(address, 0)
            if state == "lost":
                self._lost[str(details.get("reason") or "unknown")] += 1

    def take_sample(self, worker: str, sample: Sample) -> None:
        """Take in the usage of a worker, by its name."""
        self._sent_before.setdefault(sample.address, sample.sent)
        self._samples[sample.address] = (worker, sample)

    def snapshot(
        self,
        states: Mapping[str, int],
        names: Mapping[str, NameCounts],
        wasted: Mapping[tuple[str, str], float],
        scheduler: SchedulerSample | None,
        health: Mapping[Instrument, Mapping[Attributes, float]],
    ) -> Snapshot:
        """Everything as it is now.

        Parameters
        ----------
        states, names
            What the summary counts.
        wasted
            Seconds thrown away, by task name and reason.
        scheduler
            The scheduler's last sample.
        health
            The telemetry's own counts.
        """
        taken: Snapshot = {instrument: {} for instrument in instruments.INSTRUMENTS}
        self._take_tasks(taken)
        self._take_counts(taken, names, wasted)
        taken[instruments.TASK_COUNT] = {(state,): count for state, count in states.items()}
        self._take_workers(taken)
        if scheduler is not None:
            self._take_scheduler(taken, scheduler)
        for instrument, values in health.items():
            taken[instrument] = dict(values)
        return taken

    def _take_tasks(self, taken: Snapshot) -> None:
        attempts, durations = taken[instruments.TASK_ATTEMPTS], taken[instruments.TASK_DURATION]
        output = taken[instruments.TASK_OUTPUT]
        for (name, state), series in self._series.items():
            result = _RESULTS[state]
            _add(attempts, (name, result), series.attempts)
            if series.output:
                _add(output, (name,), series.output)
            if series.durations.count:
                value = series.durations.take("duration_s")
                before = durations.get((name, result))
                durations[name, result] = (
                    _merged(before, value) if isinstance(before, Distribution) else value
                )
        for name, by_name in self._names.items():
            for instrument, field, values in (
                (instruments.TASK_QUEUED, "queue_s", by_name.queueing),
                (instruments.TASK_TRANSFER, "transfer_s", by_name.transfers),
            ):
                if values.count:
                    taken[instrument][name,] = values.take(field)

    def _take_counts(
        self,
        taken: Snapshot,
        names: Mapping[str, NameCounts],
        wasted: Mapping[tuple[str, str], float],
    ) -> None:
        for name, counts in names.items():
            shown = name if name in self._names else semconv.OTHER_NAMES
            for instrument, count in (
                (instruments.TASK_RETRIES, counts.retries),
                (instruments.TASK_RECOMPUTATIONS, counts.recomputations),
                (instruments.TASK_CPU, counts.cpu),
            ):
                if count:
                    _add(taken[instrument], (shown,), count)
        for (name, reason), seconds in wasted.items():
            shown = name if name in self._names else semconv.OTHER_NAMES
            _add(taken[instruments.TASK_WASTED], (shown, reason), seconds)

    def _take_workers(self, taken: Snapshot) -> None:
        counts = taken[instruments.WORKER_COUNT]
        for state in ("running", "paused", "closing"):
            counts[state,] = 0
        for address in self._workers:
            _, sample = self._samples.get(address, ("", None))
            _add(counts, (_worker_state(sample),), 1)
        taken[instruments.WORKER_THREADS][()] = sum(self._workers.values())
        for reason, lost in self._lost.items():
            taken[instruments.WORKER_LOST][reason,] = lost
        sent = self._sent_gone
        for count, (address, (worker, sample)) in enumerate(self._samples.items()):
            sent += sample.sent - self._sent_before.get(address, 0)
            if count >= MAX_WORKERS:
                continue
            for instrument, value in (
                (instruments.WORKER_CPU, sample.cpu),
                (instruments.WORKER_MEMORY, sample.memory),
                (instruments.WORKER_MEMORY_MANAGED, sample.managed),
                (instruments.WORKER_MEMORY_UNMANAGED, max(0, sample.memory - sample.managed)),
                (instruments.WORKER_MEMORY_SPILLED, sample.spilled),
                (instruments.WORKER_MEMORY_LIMIT, sample.memory_limit or None),
                (instruments.WORKER_LAG, sample.lag),
            ):
                if value is not None:
                    taken[instrument][worker,] = value
        taken[instruments.TRANSFERRED][()] = sent

    def _take_scheduler(self, taken: Snapshot, scheduler: SchedulerSample) -> None:
        if self._spill_before is None:
            self._spill_before = (scheduler.spill_written, scheduler.spill_read)
        taken[instruments.SCHEDULER_LAG][()] = scheduler.lag
        written, read = self._spill_before
        taken[instruments.SPILLED] = {
            ("write",): scheduler.spill_written - written,
            ("read",): scheduler.spill_read - read,
        }


class Reader:
    """Makes OpenTelemetry's data of snapshots, for one exporter; called by one thread.

    Parameters
    ----------
    resource, scope
        Of the metrics.
    started : int
        When counting began, in nanoseconds.
    temporality : mapping, optional
        Which temporality the exporter prefers for each of the SDK's instrument classes;
        cumulative where it says nothing.
    exponential : bool
        It prefers exponential histograms.
    """

    def __init__(
        self,
        resource: Resource,
        scope: InstrumentationScope,
        started: int,
        temporality: Mapping[type, AggregationTemporality] | None = None,
        *,
        exponential: bool = False,
    ) -> None:
        self._resource = resource
        self._scope = scope
        self._started = started
        self._since = started
        self._temporality = temporality or {}
        self._exponential = exponential
        self._before: Snapshot = {}

    def read(self, snapshot: Snapshot, now: int) -> MetricsData:
        """What to export at the time `now` (nanoseconds)."""
        made = [
            metric
            for instrument, values in snapshot.items()
            if values and (metric := self._metric(instrument, values, now)) is not None
        ]
        self._before = snapshot
        self._since = now
        return MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(self._scope, made, "")], "")]
        )

    def _metric(
        self, instrument: Instrument, values: Mapping[Attributes, Value], now: int
    ) -> Metric | None:
        if instrument.kind == "gauge":
            points = [
                NumberDataPoint(_attributes(instrument, key), 0, now, value)
                for key, value in values.items()
                if not isinstance(value, Distribution)
            ]
            return _made(instrument, Gauge(points))
        temporality = self._temporality.get(
            _SDK_CLASSES[instrument.kind], AggregationTemporality.CUMULATIVE
        )
        delta = temporality is AggregationTemporality.DELTA
        before = self._before.get(instrument, {}) if delta else {}
        start = self._since if delta else self._started
        if instrument.kind == "histogram":
            return self._histogram(instrument, values, before, start, now, temporality)
        points = [
            NumberDataPoint(
                _attributes(instrument, key), start, now, value - _number(before.get(key))
            )
            for key, value in values.items()
            if not isinstance(value, Distribution)
        ]
        return _made(instrument, Sum(points, temporality, instrument.kind == "counter"))

    def _histogram(
        self,
        instrument: Instrument,
        values: Mapping[Attributes, Value],
        before: Mapping[Attributes, Value],
        start: int,
        now: int,
        temporality: AggregationTemporality,
    ) -> Metric | None:
        delta = temporality is AggregationTemporality.DELTA
        explicit: list[HistogramDataPoint] = []
        exponential: list[ExponentialHistogramDataPoint] = []
        for key, value in values.items():
            if not isinstance(value, Distribution):
                continue
            old = before.get(key)
            if delta:
                value = _difference(value, old if isinstance(old, Distribution) else None)
                if not value.count:
                    continue
            attributes = _attributes(instrument, key)
            if self._exponential:
                exponential.append(_exponential_point(value, attributes, start, now))
            else:
                explicit.append(
                    HistogramDataPoint(
                        attributes,
                        start,
                        now,
                        value.count,
                        value.total,
                        value.buckets,
                        instrument.bounds,
                        value.low,
                        value.high,
                        value.exemplars,
                    )
                )
        if exponential:
            return _made(instrument, ExponentialHistogram(exponential, temporality))
        return _made(instrument, Histogram(explicit, temporality)) if explicit else None


class ApplicationInstruments:
    """Instruments of a meter provider that belongs to the application.

    :meth:`record` and :meth:`show` are called by the recorder's thread, the callbacks by whichever
    thread reads the provider. What is counted already is shown by callbacks, at no cost for each
    task; histograms must be recorded one by one.
    """

    _of_provider: Final[dict[int, tuple[Any, ApplicationInstruments]]] = {}

    def __init__(self, provider: Any, scope: InstrumentationScope) -> None:
        meter: api.Meter = provider.get_meter(scope.name, scope.version)
        self._runs: dict[str, Snapshot] = {}
        self._ended: dict[Instrument, defaultdict[Attributes, float]] = {}
        self._histograms = [
            (
                field,
                by_result,
                meter.create_histogram(
                    instrument.name,
                    instrument.unit,
                    instrument.description,
                    explicit_bucket_boundaries_advisory=instrument.bounds,
                ),
            )
            for instrument, field, by_result in (
                (instruments.TASK_DURATION, "duration_s", True),
                (instruments.TASK_QUEUED, "queue_s", False),
                (instruments.TASK_TRANSFER, "transfer_s", False),
            )
        ]
        for instrument in instruments.INSTRUMENTS:
            create = {
                "counter": meter.create_observable_counter,
                "updowncounter": meter.create_observable_up_down_counter,
                "gauge": meter.create_observable_gauge,
            }.get(instrument.kind)
            if create is not None:
                create(
                    instrument.name,
                    [self._callback(instrument)],
                    instrument.unit,
                    instrument.description,
                )

    @classmethod
    def of(cls, provider: Any, scope: InstrumentationScope) -> ApplicationInstruments:
        """Those of `provider`: each can be made only once, and a program may have more runs."""
        known = cls._of_provider.get(id(provider))
        if known is None or known[0] is not provider:
            known = cls._of_provider[id(provider)] = (provider, cls(provider, scope))
        return known[1]

    def record(self, name: str, record: Record) -> None:
        """An attempt ended."""
        context = _context_of(record)
        result = result_of(record)
        for field, by_result, histogram in self._histograms:
            value = record.get(field)
            if value is not None:
                attributes = {semconv.TASK_NAME: name}
                if by_result:
                    attributes[semconv.TASK_RESULT] = result
                histogram.record(value, attributes, context)

    def show(self, run: str, snapshot: Snapshot) -> None:
        """The newest snapshot of a run."""
        self._runs = {**self._runs, run: snapshot}

    def end(self, run: str) -> None:
        """A run is over: its counters stay, its gauges go."""
        runs = dict(self._runs)
        for instrument, values in runs.pop(run, {}).items():
            if instrument.kind == "counter":
                totals = self._ended.setdefault(instrument, defaultdict(float))
                for key, value in values.items():
                    totals[key] += _number(value)
        self._runs = runs

    def _callback(self, instrument: Instrument) -> Any:
        def observe(_: api.CallbackOptions) -> Iterable[api.Observation]:
            totals: defaultdict[Attributes, float] = defaultdict(float)
            totals.update(self._ended.get(instrument, {}))
            for snapshot in self._runs.values():
                for key, value in snapshot.get(instrument, {}).items():
                    totals[key] += _number(value)
            return [
                api.Observation(value, _attributes(instrument, key))
                for key, value in totals.items()
            ]

        return observe


def wants_exponential(aggregation: Mapping[type, Any] | None) -> bool:
    """Whether an exporter's preferred aggregations say exponential histograms."""
    preferred = (aggregation or {}).get(sdk.Histogram)
    return isinstance(preferred, ExponentialBucketHistogramAggregation)


_SDK_CLASSES: Final[dict[str, type]] = {
    "counter": sdk.Counter,
    "updowncounter": sdk.UpDownCounter,
    "histogram": sdk.Histogram,
}
_CLOSING: Final = frozenset({"closing", "closing_gracefully", "closed", "failed", "stopping"})


def _worker_state(sample: Sample | None) -> str:
    if sample is None:
        return "running"
    if sample.status in _CLOSING:
        return "closing"
    return "paused" if sample.status == "paused" else "running"


def _made(instrument: Instrument, data: Any) -> Metric | None:
    return Metric(instrument.name, instrument.description, instrument.unit, data)


def _attributes(instrument: Instrument, key: Attributes) -> dict[str, str]:
    return dict(zip(instrument.attributes, key, strict=True))


def _number(value: Value | None) -> float:
    return 0 if value is None or isinstance(value, Distribution) else value


def _add(values: dict[Attributes, Value], key: Attributes, number: float) -> None:
    values[key] = _number(values.get(key)) + number


def _merged(one: Distribution, other: Distribution) -> Distribution:
    scaled = dict(one.scaled)
    for index, count in other.scaled.items():
        scaled[index] = scaled.get(index, 0) + count
    return Distribution(
        one.count + other.count,
        one.total + other.total,
        min(one.low, other.low),
        max(one.high, other.high),
        tuple(a + b for a, b in zip(one.buckets, other.buckets, strict=True)),
        one.zeros + other.zeros,
        scaled,
        min(one.last_low, other.last_low),
        max(one.last_high, other.last_high),
        (*one.exemplars, *other.exemplars),
    )


def _difference(now: Distribution, before: Distribution | None) -> Distribution:
    """The last interval alone."""
    if before is None:
        return now
    return replace(
        now,
        count=now.count - before.count,
        total=now.total - before.total,
        low=now.last_low,
        high=now.last_high,
        buckets=tuple(a - b for a, b in zip(now.buckets, before.buckets, strict=True)),
        zeros=now.zeros - before.zeros,
        scaled={
            index: count - before.scaled.get(index, 0)
            for index, count in now.scaled.items()
            if count > before.scaled.get(index, 0)
        },
    )


def _exponential_point(
    value: Distribution, attributes: dict[str, str], start: int, now: int
) -> ExponentialHistogramDataPoint:
    scaled, scale = dict(value.scaled), _SCALE
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


def _exemplar(record: Record, value: float) -> Exemplar:
    return Exemplar(
        {semconv.TASK_KEY: record["task_id"]},
        value,
        parse_nanoseconds(record["timestamp"]),
        int(record["span_id"], 16),
        int(record["trace_id"], 16),
    )


def _context_of(record: Record) -> Any:
    """A context whose span is the attempt's: from it the SDK takes exemplars."""
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    from scalable.telemetry.spans import span_context

    ids = span_context(int(record["trace_id"], 16), int(record["span_id"], 16))
    return set_span_in_context(NonRecordingSpan(ids))

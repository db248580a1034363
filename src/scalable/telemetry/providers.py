"""Resource and scope of our signals, and the exits they leave by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic, time_ns
from typing import Any, Final, NamedTuple

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.common.options import RecorderOptions
from scalable.telemetry import instruments, semconv
from scalable.telemetry.budget import Group, SpanBudget
from scalable.telemetry.instruments import Instrument, UsagePoint, usage_metrics
from scalable.telemetry.ledger.signals import Signals
from scalable.telemetry.logs import EventFactory
from scalable.telemetry.metering import (
    ApplicationInstruments,
    Attributes,
    Meter,
    Reader,
    Snapshot,
    wants_exponential,
)
from scalable.telemetry.routes import Routes, exception_signal, load_exporter
from scalable.telemetry.shipping import (
    ExporterSink,
    Limits,
    Shipper,
    SignalName,
    Sink,
    UndeliverableError,
    limits_from,
)
from scalable.telemetry.spans import SCOPE, SpanFactory
from scalable_runs.otel.exporter import RunsLogExporter, RunsMetricExporter, RunsSpanExporter
from scalable_runs.redact import Redactor
from scalable_runs.schema import Record
from scalable_runs.summary import RunSummary
from scalable_runs.writer import RunWriter

#: Items that wait to be sent at most, where OTEL_BSP_* or OTEL_BLRP_* say nothing.
QUEUE: Final = 10_000
#: Collections of metrics that wait to be sent at most.
METRICS_QUEUE: Final = 16
#: Shortest time between two collections into metrics.jsonl, in seconds.
FILE_INTERVAL: Final = 60.0
#: Time between two looks at the figures for an application's meter provider, in seconds.
SHOW_INTERVAL: Final = 1.0


def make_resource(
    run: str, project: str, redact: Redactor, base: Resource | None = None
) -> Resource:
    """The resource of a run: what the environment says (``OTEL_SERVICE_NAME``, …) comes first.

    Parameters
    ----------
    run, project : str
        Id of the run, name of the project.
    redact : Redactor
        Passed every attribute: ``OTEL_RESOURCE_ATTRIBUTES`` may hold anything.
    base : Resource, optional
        The application's own, which takes the environment's place.
    """
    attributes: Mapping[str, Any] = {semconv.RUN_ID: run, semconv.PROJECT: project}
    if base is not None:
        return _redacted(base.merge(Resource(attributes)), redact)
    resource = Resource.create(attributes)
    service = str(resource.attributes.get("service.name", ""))
    if not service or service.startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": project}))
    return _redacted(resource, redact)


def _redacted(resource: Resource, redact: Redactor) -> Resource:
    return Resource(redact.attributes(resource.attributes), resource.schema_url)


class Figures(NamedTuple):
    """What metrics are made of, besides what the exits count themselves."""

    summary: RunSummary
    wasted: Mapping[tuple[str, str], float]
    scheduler: Any
    facts: int
    facts_dropped: int
    errors: int
    lag: float


class SignalRouter:
    """Where every signal leaves; called by the recorder's thread only, but for :meth:`__init__`.

    The run's directory gets all of it. Over OTLP, or to the application's providers, goes what
    :class:`~scalable.telemetry.budget.SpanBudget`, the sampler and the options let through, by way
    of bounded queues with threads of their own. Where nothing is configured there are none.

    Signals that are not the run's own but of user code in the workers come in by
    :meth:`foreign_spans`, :meth:`foreign_logs` and :meth:`foreign_metrics`, one for each signal:
    they stand in spans.jsonl, logs.jsonl and metrics.jsonl of the run and go out with the rest.

    Parameters
    ----------
    writer : RunWriter
        The run's directory.
    resource : Resource
        Of the run's own signals.
    on_records : callable
        Told of every record written.
    root : SpanContext
        The run's root span.
    run : str
        Id of the run.
    routes : Routes
        Where signals go besides.
    options : RecorderOptions
        How many spans, and whether the events of every task, are sent.
    warn : callable
        Told what the user should know.
    """

    def __init__(
        self,
        writer: RunWriter,
        resource: Resource,
        on_records: Callable[[str, Sequence[Record]], None],
        *,
        root: SpanContext,
        run: str,
        routes: Routes,
        options: RecorderOptions,
        warn: Callable[[str], None],
    ) -> None:
        self._resource = resource
        self._on_written = on_records
        self._run = run
        self._root = root
        self._routes = routes
        self._task_events = options.task_events
        self._warn = warn
        shared: Any = {
            "record_map": semconv.RECORD_MAP,
            "resource": resource,
            "on_records": self._on_records,
            # The recorder exports in small pieces, and flushes once it has no more.
            "flush_on_export": False,
        }
        self._spans = RunsSpanExporter(writer, **shared)
        self._logs = RunsLogExporter(writer, **shared)
        self._metrics = RunsMetricExporter(writer, **shared)
        self._span_shippers: list[Shipper[ReadableSpan]] = []
        self._log_shippers: list[Shipper[ReadableLogRecord]] = []
        self._metric_shippers: list[tuple[Shipper[MetricsData], Reader]] = []
        self._started = time_ns()
        self._meter = Meter()
        self._file_reader = Reader(resource, SCOPE, self._started)
        self._application: ApplicationInstruments | None = None
        self._budget = SpanBudget(run, options.span_budget, SpanFactory(resource))
        self._budget.parent(root)
        self._events = EventFactory(resource)
        self._unsampled = 0
        self._foreign: dict[int, int] = {}
        self._foreign_limit = max(1, options.span_budget)
        self._foreign_left_out = 0
        self._interval = _interval(os.environ)
        self._next_sent = self._next_written = self._next_shown = 0.0
        self._in_trouble = False
        self._log_exceptions = exception_signal(os.environ) != "spans" or not self.sends_spans

    # -- beginning ------------------------------------------------------------------------------

    @property
    def sends_spans(self) -> bool:
        """Spans go anywhere but into the directory."""
        return "traces" in self._routes.providers or "traces" in self._routes.exporters

    def open(self) -> None:
        """Load and begin what is configured; on the recorder's thread, as imports take a while."""
        now = monotonic()
        self._next_sent = now + self._interval
        self._next_written = now + max(self._interval, FILE_INTERVAL)
        providers = self._routes.providers
        spans, logs = self._limits("OTEL_BSP", QUEUE, 5.0), self._limits("OTEL_BLRP", QUEUE, 1.0)
        if "traces" in providers:
            sink: Sink[Any] = _ProviderSpans(providers["traces"])
            self._span_shippers.append(Shipper("traces", sink, spans, self._trouble))
        if "logs" in providers:
            sink = _ProviderLogs(providers["logs"])
            self._log_shippers.append(Shipper("logs", sink, logs, self._trouble))
        for exporter in self._load("traces"):
            sink = ExporterSink(exporter)
            self._span_shippers.append(Shipper("traces", sink, spans, self._trouble))
        for exporter in self._load("logs"):
            sink = ExporterSink(exporter)
            self._log_shippers.append(Shipper("logs", sink, logs, self._trouble))
        exporters = self._load("metrics")
        preferences = [
            wants_exponential(getattr(exporter, "_preferred_aggregation", None))
            for exporter in exporters
        ]
        self._meter = Meter(scaled=any(preferences))
        for exporter, exponential in zip(exporters, preferences, strict=True):
            reader = Reader(
                self._resource,
                SCOPE,
                self._started,
                getattr(exporter, "_preferred_temporality", None),
                exponential=exponential,
            )
            sink = ExporterSink(exporter, single=True)
            limits = Limits(METRICS_QUEUE, 1, 0.0)
            self._metric_shippers.append((Shipper("metrics", sink, limits, self._trouble), reader))
        if "metrics" in providers:
            self._application = ApplicationInstruments.of(providers["metrics"], SCOPE)
            self._meter.instruments = self._application

    def announce(self, started: float) -> None:
        """Say over OTLP that the run goes on: its root comes when it ends."""
        attributes = {semconv.RUN_ID: self._run}
        event = self._events.event(semconv.EVENT_RUN, started, attributes, self._root)
        self._send_logs([event])

    def _limits(self, prefix: str, capacity: int, delay: float) -> Limits:
        return limits_from(os.environ, prefix, capacity, delay)

    def _load(self, signal: SignalName) -> list[Any]:
        loaded = [
            load_exporter(signal, point, self._warn)
            for point in self._routes.exporters.get(signal, ())
        ]
        return [exporter for exporter in loaded if exporter is not None]

    def _trouble(self, what: str) -> None:
        """Called by the shippers' threads; the user hears of it once a run."""
        if not self._in_trouble:
            self._in_trouble = True
            self._warn(
                f"signals cannot be sent now: {what.strip().rstrip('.')}. The run's directory has "
                f"them all; `scalable export --run-id {self._run}` sends them later"
            )

    # -- the run's own signals ------------------------------------------------------------------

    def parents(self, opened: Iterable[SpanContext], nested: Iterable[SpanContext]) -> None:
        """Spans under which attempts will hang: of submissions, and of attempts that submit."""
        if self._span_shippers:
            for ids in opened:
                self._budget.parent(ids)
            for ids in nested:
                if not self._budget.is_sent(ids):
                    self._budget.pin(ids)

    def expect(self, submitted: Mapping[int, int]) -> None:
        """Tasks submitted since the last call, by trace."""
        for trace_id, count in submitted.items():
            self._budget.expect(trace_id, count)

    def export(self, batches: Sequence[Signals], points: Sequence[UsagePoint]) -> None:
        """Hand over everything, in order."""
        for batch in batches:
            if batch.logs:
                self._logs.export(batch.logs)
            if batch.spans:
                self._spans.export(batch.spans)
        if self._span_shippers:
            for batch in batches:
                self._send_spans(self._chosen(batch.spans))
        if self._log_shippers:
            for batch in batches:
                self._send_logs(self._wanted(batch.logs))
        if points:
            self._metrics.export(usage_metrics(points, self._resource, SCOPE))
            for attributes, sample in points:
                self._meter.take_sample(str(attributes[semconv.ENTITY_ID]), sample)

    def show_running(self, spans: Sequence[ReadableSpan]) -> None:
        """Spans that stand for what still runs; they are nothing for the directory."""
        self._send_spans(
            [span for span in spans if _sampled(span) and self._budget.pin(_ids_of_running(span))]
        )

    def _chosen(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        """What goes out of one batch; the phases of an attempt follow it."""
        groups: list[Group] = []
        others: list[ReadableSpan] = []
        for span in spans:
            attributes = span.attributes or {}
            if not _sampled(span):
                self._unsampled += semconv.TASK_KEY in attributes
            elif semconv.TASK_KEY in attributes:
                groups.append(Group(span, ()))
            elif semconv.PHASE_NAME in attributes and groups:
                groups[-1] = Group(groups[-1].attempt, (*groups[-1].phases, span))
            else:
                others.append(span)
        return [*self._budget.take(groups), *others, *self._budget.forgotten()]

    def _wanted(self, logs: Sequence[ReadableLogRecord]) -> list[ReadableLogRecord]:
        """Not the events of every task; nor, by default, exceptions that stand on spans."""
        unwanted: set[str | None] = set()
        if not self._task_events:
            unwanted.add(semconv.EVENT_TASK)
        wanted = [log for log in logs if log.log_record.event_name not in unwanted]
        if self._log_exceptions:
            return wanted
        return [
            log
            for log in wanted
            if log.log_record.event_name != semconv.EVENT_FAILURE
            or semconv.TASK_KEY not in (log.log_record.attributes or {})
        ]

    def _send_spans(self, spans: Sequence[ReadableSpan]) -> None:
        for shipper in self._span_shippers:
            shipper.put(spans)

    def _send_logs(self, logs: Sequence[ReadableLogRecord]) -> None:
        for shipper in self._log_shippers:
            shipper.put(logs)

    def settle(self) -> dict[str, int]:
        """The run ends: send what the budget held back; returns the counts for the root span."""
        if not self._span_shippers:
            return {}
        self._send_spans(self._budget.settle())
        counts = {
            semconv.SPANS_SENT: self._budget.sent,
            semconv.SPANS_SUMMARIZED: self._budget.summarized,
            semconv.SPANS_UNSAMPLED: self._unsampled,
            semconv.SPANS_FOREIGN_LEFT_OUT: self._foreign_left_out,
        }
        return {name: count for name, count in counts.items() if count or name.endswith(".sent")}

    # -- user code's signals --------------------------------------------------------------------

    def foreign_spans(self, spans: Sequence[ReadableSpan]) -> None:
        """Spans that user code made in a worker process; their attempts have not ended yet.

        The attempt that they hang under is sent for their sake, as far as its trace's budget has
        room; where it has none they are left out with it, and counted on the root. At most
        `span_budget` of them are sent for each trace.
        """
        if not spans:
            return
        self._spans.export(spans)
        if not self._span_shippers:
            return
        chosen: list[ReadableSpan] = []
        ids_here = {span.context.span_id for span in spans if span.context is not None}
        for span in spans:
            context, parent = span.context, span.parent
            if context is None or not context.trace_flags.sampled:
                continue
            count = self._foreign.get(context.trace_id, 0)
            known = (
                parent is None
                or parent.span_id in ids_here
                or self._budget.is_sent(parent)
                or self._budget.pin(parent)
            )
            if not known or count >= self._foreign_limit:
                self._foreign_left_out += 1
                continue
            if len(self._foreign) >= _MAX_FOREIGN_TRACES:
                del self._foreign[next(iter(self._foreign))]
            self._foreign[context.trace_id] = count + 1
            self._budget.arrived(context)
            chosen.append(span)
        self._send_spans(chosen)

    def foreign_logs(self, logs: Sequence[ReadableLogRecord]) -> None:
        """Log records of tasks, workers, nannies and the scheduler."""
        if logs:
            self._logs.export(logs)
            self._send_logs(logs)

    def foreign_metrics(self, data: MetricsData) -> None:
        """Metric points that user code made in a worker process."""
        self._metrics.export(data)
        for shipper, _ in self._metric_shippers:
            shipper.put((data,))

    # -- metrics --------------------------------------------------------------------------------

    def _on_records(self, file: str, records: Sequence[Record]) -> None:
        self._on_written(file, records)
        self._meter.add(file, records)

    def collect(self, figures: Figures, *, last: bool = False) -> None:
        """Collect metrics wherever it is time to; `last`: everywhere, now."""
        now = monotonic()
        send = bool(self._metric_shippers) and (last or now >= self._next_sent)
        write = last or now >= self._next_written
        show = self._application is not None and (last or now >= self._next_shown)
        if not (send or write or show):
            return
        snapshot = self._snapshot(figures, ended=last)
        at = time_ns()
        if send:
            self._next_sent = now + self._interval
            for shipper, reader in self._metric_shippers:
                shipper.put((reader.read(snapshot, at),))
        if write:
            self._next_written = now + max(self._interval, FILE_INTERVAL)
            self._metrics.export(self._file_reader.read(snapshot, at))
        if show and self._application is not None:
            self._next_shown = now + SHOW_INTERVAL
            self._application.show(self._run, snapshot)
            if last:
                self._application.end(self._run)

    def _snapshot(self, figures: Figures, *, ended: bool) -> Snapshot:
        health: dict[Instrument, dict[Attributes, float]] = {
            instruments.FACTS: {(): figures.facts},
            instruments.FACTS_DROPPED: {(): figures.facts_dropped},
            instruments.ERRORS: {(): figures.errors},
            instruments.LAG: {(): figures.lag},
            instruments.EXPORTED: {},
            instruments.EXPORT_FAILURES: {},
            instruments.EXPORT_QUEUE: {},
        }
        if self._span_shippers:
            health[instruments.SUMMARIZED] = {(): self._budget.summarized}
        for shipper in self._shippers():
            counts, signal = shipper.counts, shipper.signal
            for outcome, count in (
                ("sent", counts.sent),
                ("failed", counts.failed),
                ("dropped", counts.dropped),
            ):
                _add(health[instruments.EXPORTED], (signal, outcome), count)
            _add(health[instruments.EXPORT_FAILURES], (signal,), counts.failures)
            _add(health[instruments.EXPORT_QUEUE], (signal,), shipper.waiting)
        return self._meter.snapshot(
            figures.summary.states(ended=ended),
            figures.summary.by_name(),
            figures.wasted,
            figures.scheduler,
            health,
        )

    # -- ending ---------------------------------------------------------------------------------

    def finish(self, deadline: float) -> None:
        """Send what waits until `deadline` (:func:`time.monotonic`), give up what is left then."""
        shippers = self._shippers()
        for shipper in shippers:
            shipper.begin_close()
        for shipper in shippers:
            shipper.close(deadline)

    def not_sent(self) -> dict[str, int]:
        """Items that were to be sent and could not be, by signal; the directory has them."""
        lost: dict[str, int] = {}
        for shipper in self._shippers():
            count = shipper.counts.dropped + shipper.counts.failed
            if count:
                lost[shipper.signal] = lost.get(shipper.signal, 0) + count
        return lost

    def sent(self) -> dict[str, int]:
        """Items that a backend has taken so far, by signal."""
        taken: dict[str, int] = {}
        for shipper in self._shippers():
            taken[shipper.signal] = taken.get(shipper.signal, 0) + shipper.counts.sent
        return taken

    def shutdown(self) -> None:
        """Nothing comes any more for the directory."""
        self._spans.shutdown()
        self._logs.shutdown()
        self._metrics.shutdown()

    def _shippers(self) -> list[Shipper[Any]]:
        metrics = [shipper for shipper, _ in self._metric_shippers]
        return [*self._span_shippers, *self._log_shippers, *metrics]


_MAX_FOREIGN_TRACES: Final = 1_000


class _ProviderSpans:
    """A tracer provider of the application's as a sink.

    Its processors may hold 2,048 spans and drop what comes beyond: each batch is flushed before
    the next comes. That it waits there for the application's collector costs nobody anything.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def send(self, batch: Sequence[ReadableSpan]) -> None:
        processor = self._provider._active_span_processor
        for span in batch:
            processor.on_end(span)
        self._provider.force_flush()

    def shutdown(self) -> None:
        """It is the application's."""


class _ProviderLogs:
    """A logger provider of the application's as a sink."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def send(self, batch: Sequence[ReadableLogRecord]) -> None:
        for readable in batch:
            scope = readable.instrumentation_scope or SCOPE
            logger = self._provider.get_logger(scope.name, scope.version)
            logger.emit(readable.log_record)
        flush = getattr(self._provider, "force_flush", None)
        if callable(flush) and flush() is False:
            raise UndeliverableError("the application's log processors", permanent=True)

    def shutdown(self) -> None:
        """It is the application's."""


def _interval(environ: Mapping[str, str]) -> float:
    try:
        interval = float(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 60_000) / 1e3
    except ValueError:
        return 60.0
    return interval if interval > 0 else 60.0


def _sampled(span: ReadableSpan) -> bool:
    return span.context is None or span.context.trace_flags.sampled


def _ids_of_running(span: ReadableSpan) -> SpanContext:
    """Of the attempt that a span of something running stands for."""
    context: Any = span.context
    return span.links[0].context if span.links else context


def _add(values: dict[Attributes, float], key: Attributes, count: float) -> None:
    values[key] = values.get(key, 0) + count

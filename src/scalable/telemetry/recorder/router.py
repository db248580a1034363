"""Routes the signals of a run to its directory and to exporters or providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.common.options import RecorderOptions
from scalable.telemetry import semconv
from scalable.telemetry.configuration.exporters import load_exporter
from scalable.telemetry.configuration.limits import LimitedExporter
from scalable.telemetry.configuration.routes import Routes, exception_signal
from scalable.telemetry.export.application import LoggerProviderSink, TracerProviderSink
from scalable.telemetry.export.exported import exported_log, exported_span
from scalable.telemetry.export.shipping import (
    DELAYS,
    QUEUE,
    Limits,
    Shipper,
    SignalName,
    limits_from,
)
from scalable.telemetry.export.sinks import ExporterSink, Sink
from scalable.telemetry.ledger.signals import Output
from scalable.telemetry.metrics.metric_router import Figures, MetricRouter
from scalable.telemetry.metrics.relayed_metrics import keep_exemplars
from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.signals.logs import EventFactory
from scalable.telemetry.signals.spans import NOT_SENT, span_context
from scalable.telemetry.spans.span_order import OrderedShipper
from scalable.telemetry.spans.span_router import SpanRouter
from scalable_runs.otel.exporter import RunsLogExporter, RunsMetricExporter, RunsSpanExporter
from scalable_runs.schema import Record
from scalable_runs.writer import RunWriter

#: Share of the time for sending, at the end, that is kept for metrics.
METRICS_SHARE: Final = 0.25


class SignalRouter:
    """Routes every signal; called by the recorder's thread only, except :meth:`__init__`.

    The run's directory gets all signals. OTLP exporters and the application's providers get what
    :class:`~scalable.telemetry.spans.budget.SpanBudget`, the sampler and the options allow, through
    bounded queues with their own threads, if any are configured.

    Signals of user code in the workers are passed to :meth:`foreign_spans`, :meth:`foreign_logs`
    and :meth:`foreign_metrics`. `on_records` is called with every record written.
    """

    def __init__(
        self,
        writer: RunWriter,
        resource: Resource,
        on_records: Callable[[str, Sequence[Record]], None],
        *,
        root: SpanContext,
        run: str,
        key: str,
        routes: Routes,
        options: RecorderOptions,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time,
    ) -> None:
        self._on_written = on_records
        self._run = run
        self._root = root
        self._routes = routes
        self._warn = warn
        shared: Any = {
            "record_map": RECORD_MAP,
            "resource": resource,
            "on_records": self._on_records,
            # The recorder exports in small pieces, and flushes after the last one.
            "flush_on_export": False,
        }
        self._span_file = RunsSpanExporter(writer, **shared)
        self._log_file = RunsLogExporter(writer, **shared)
        self._metric_file = RunsMetricExporter(writer, **shared)
        self._spans = SpanRouter(key, root, resource, options.span_budget)
        self._metrics = MetricRouter(resource, self._metric_file, clock)
        self._span_budget = options.span_budget
        #: To the application's tracer provider.
        self._ordered: OrderedShipper | None = None
        self._log_shippers: list[Shipper[ReadableLogRecord]] = []
        self._events = EventFactory(resource)
        self._in_trouble = False
        #: Events that are never sent, and those that are not sent for tasks.
        self._unwanted = set[str | None]() if options.task_events else {semconv.EVENT_TASK}
        log_exceptions = exception_signal(routes.environ) != "spans" or not self.sends_spans
        self._unwanted_of_tasks = set[str]() if log_exceptions else {semconv.EVENT_FAILURE}

    # -- beginning ------------------------------------------------------------------------------

    @property
    def sends_spans(self) -> bool:
        """Whether spans are sent anywhere besides the directory."""
        return "traces" in self._routes.providers or "traces" in self._routes.exporters

    def open(self) -> None:
        """Load and start what is configured; on the recorder's thread, as imports take a while."""
        routes, providers = self._routes, self._routes.providers
        queue = limits_from(routes.environ, "OTEL_BSP", QUEUE, DELAYS["traces"])
        for sink, limits in self._exporter_sinks("traces", routes.limits.spans, queue):
            self._spans.shippers.append(Shipper("traces", sink, limits, self._trouble))
        if "traces" in providers:
            sink = TracerProviderSink(providers["traces"], self._warn)
            self._ordered = OrderedShipper(
                "traces", sink, queue, self._trouble, budget=self._span_budget
            )
            self._spans.shippers.append(self._ordered)
        queue = limits_from(routes.environ, "OTEL_BLRP", QUEUE, DELAYS["logs"])
        logs = self._exporter_sinks("logs", routes.limits.logs, queue)
        if "logs" in providers:
            logs.append((LoggerProviderSink(providers["logs"]), queue))
        for sink, limits in logs:
            self._log_shippers.append(Shipper("logs", sink, limits, self._trouble))
        self._metrics.open(
            [exporter for exporter, _ in self._load("metrics")],
            providers.get("metrics"),
            routes.environ,
            self._trouble,
            self._warn,
        )

    def announce(self, started: float, root: ReadableSpan) -> None:
        """The run has begun: send an event, as its root span is sent only when it ends.

        The application's span processors see the root's begin.
        """
        if self._ordered is not None and self._root.trace_flags.sampled:
            self._ordered.order.begin(exported_span(root))
        attributes = {semconv.RUN_ID: self._run}
        event = self._events.event(semconv.EVENT_RUN, started, attributes, self._root)
        self._send_logs([event])

    def _exporter_sinks(
        self, signal: SignalName, limit: Callable[[Sequence[Any]], Sequence[Any]], queue: Limits
    ) -> list[tuple[Sink[Any], Limits]]:
        """The signal's exporters, each with the limits of its queue: its own, else `queue`."""
        return [
            (ExporterSink(LimitedExporter(exporter, limit)), own or queue)
            for exporter, own in self._load(signal)
        ]

    def _load(self, signal: SignalName) -> list[tuple[Any, Limits | None]]:
        chosen = self._routes.exporters.get(signal, ())
        loaded = [(load_exporter(signal, each, self._warn), each.queue) for each in chosen]
        return [(exporter, queue) for exporter, queue in loaded if exporter is not None]

    def _trouble(self, what: str) -> None:
        """Called by the shippers' threads; warns the user once a run."""
        if not self._in_trouble:
            self._in_trouble = True
            self._warn(
                f"signals cannot be sent now: {what.strip().rstrip('.')}. The run's directory has "
                f"them all; `scalable export --run-id {self._run}` sends them later"
            )

    # -- signals --------------------------------------------------------------------------------

    def submitted(self, span: ReadableSpan, context: Context | None) -> None:
        """Write the span of a submission, which is sent later.

        It began in `context`, if that is known here.
        """
        self._span_file.export([span])
        ids = span.context
        of_task = semconv.SUBMIT_TASK in (span.attributes or {})
        if self._ordered is None or ids is None or of_task:
            return
        if ids.trace_flags.sampled:
            self._ordered.order.submitted(ids, context)

    def began(self, span: ReadableSpan, context: Context | None) -> None:
        """A span began in `context`, if that is known here, and is exported when it ends."""
        if self._ordered is not None and span.context and span.context.trace_flags.sampled:
            self._ordered.order.begin(exported_span(span), context)

    def write_spans(self, spans: Sequence[ReadableSpan]) -> None:
        """Write spans, or the records that they are routed to, without sending them."""
        self._span_file.export(spans)

    def send_spans(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans of the run that were written before."""
        self._spans.send(spans)

    def export(self, output: Output, opened: Sequence[SpanContext]) -> None:
        """Write and send the ledger's signals in order; `opened` are spans of open submissions."""
        for batch in output.batches:
            if batch.logs:
                self._log_file.export(batch.logs)
            if batch.spans:
                self._span_file.export(batch.spans)
        if self._ordered is not None:
            self._ordered.order.note(output)
        self._spans.export(output, opened)
        self._metrics.record_attempts(self._spans.is_sent)
        if self._log_shippers:
            for batch in output.batches:
                self._send_logs([log for log in batch.logs if self._is_wanted(log)])
        if output.points:
            self._metrics.add_points(output.points)

    def _is_wanted(self, log: ReadableLogRecord) -> bool:
        """Whether to send a log; by default not task events, nor exceptions that spans have.

        Exceptions of attempts whose spans are not sent are sent.
        """
        record = log.log_record
        name = record.event_name
        if name in self._unwanted or _goes_nowhere(log):
            return False
        if name in self._unwanted_of_tasks and semconv.TASK_KEY in (record.attributes or {}):
            ids = span_context(record.trace_id or 0, record.span_id or 0)
            return ids.span_id == self._root.span_id or not self._spans.is_sent(ids)
        return True

    def _send_logs(self, logs: Sequence[ReadableLogRecord]) -> None:
        exported = [exported_log(log, has_span=self._spans.has_span(log)) for log in logs]
        for shipper in self._log_shippers:
            shipper.put(exported)

    def foreign_spans(self, spans: Sequence[ReadableSpan]) -> None:
        """Write and send spans that user code made in a worker process."""
        if spans:
            self._span_file.export(spans)
            self._spans.export_foreign(spans)

    def foreign_logs(self, logs: Sequence[ReadableLogRecord]) -> None:
        """Write and send log records of tasks, workers, nannies and the scheduler."""
        if logs:
            self._log_file.export(logs)
            if self._log_shippers:
                self._send_logs([log for log in logs if not _goes_nowhere(log)])

    def foreign_metrics(self, data: MetricsData) -> None:
        """Write and send metric points that user code made."""
        unlinked = self._metrics.has_unlinked_exemplars
        keep_exemplars(data, self._spans.is_expected, unlinked=unlinked)
        self._metrics.export(data)

    def _on_records(self, file: str, records: Sequence[Record]) -> None:
        self._on_written(file, records)
        self._metrics.add(file, records)

    def collect(self, figures: Figures, *, last_until: float | None = None) -> None:
        """Collect metrics that are due; all of them if this is the last time, see :meth:`finish`.

        Spans that wait for nothing more are sent to the application's provider.
        """
        if self._ordered is not None:
            self._ordered.release()
        self._metrics.collect(
            figures, self._shippers(), self._spans.summarized, last_until=last_until
        )

    # -- ending ---------------------------------------------------------------------------------

    def settle(self) -> dict[str, int]:
        """Send what the budget held back, at the end; returns the counts for the root span."""
        return self._spans.settle()

    def finish(self, deadline: float, collect: Callable[[float], None] | None = None) -> None:
        """Send what waits until `deadline` (:func:`time.monotonic`), then give up the rest.

        Metrics come last, as they count what was sent: `collect` is called with the deadline, and
        is to collect them for the last time.
        """
        now = monotonic()
        others = [*self._spans.shippers, *self._log_shippers]
        _close(others, deadline - max(0.0, deadline - now) * METRICS_SHARE)
        if collect is not None:
            collect(deadline)
        _close(self._metrics.shippers, deadline)
        # There are no more signals for the directory.
        for file in (self._span_file, self._log_file, self._metric_file):
            file.shutdown()

    def not_sent(self) -> dict[str, int]:
        """Items that could not be sent, by signal; the directory has them."""
        lost: Counter[str] = Counter()
        for shipper in self._shippers():
            lost[shipper.signal] += shipper.counts.dropped + shipper.counts.failed
        return dict(+lost)

    def sent(self) -> dict[str, int]:
        """Items that a backend has accepted so far, by signal."""
        taken: Counter[str] = Counter()
        for shipper in self._shippers():
            taken[shipper.signal] += shipper.counts.sent
        return dict(taken)

    def _shippers(self) -> list[Shipper[Any]]:
        return [*self._spans.shippers, *self._log_shippers, *self._metrics.shippers]


def _close(shippers: Sequence[Shipper[Any]], deadline: float) -> None:
    for shipper in shippers:
        shipper.begin_close()
    for shipper in shippers:
        shipper.close(deadline)


def _goes_nowhere(log: ReadableLogRecord) -> bool:
    return bool((log.log_record.trace_flags or 0) & NOT_SENT)

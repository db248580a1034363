"""The run's own metrics: collected for the directory, the exporters and the application."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext

from scalable.common.otel_environment import EXEMPLAR_FILTER, number_in
from scalable.facts import SchedulerSample
from scalable.telemetry import instruments, semconv
from scalable.telemetry.export.application import identity_of
from scalable.telemetry.export.shipping import Limits, Shipper
from scalable.telemetry.export.sinks import ExporterSink
from scalable.telemetry.instrument import Instrument
from scalable.telemetry.metrics.application_instruments import ApplicationInstruments
from scalable.telemetry.metrics.metering import Meter, is_end
from scalable.telemetry.metrics.metric_readers import Reader
from scalable.telemetry.metrics.relayed_metrics import RelayedMetrics
from scalable.telemetry.metrics.self_metrics import shipper_metrics
from scalable.telemetry.metrics.snapshot import Attributes
from scalable.telemetry.signals.spans import nanoseconds
from scalable.telemetry.signals.usage import UsagePoint, usage_metrics
from scalable_runs.otel.exporter import RunsMetricExporter
from scalable_runs.schema import TASKS, Record
from scalable_runs.summary import RunSummary

#: Maximum number of collections that wait to be sent.
QUEUE: Final = 16
#: Shortest time between two collections into metrics.jsonl, in seconds.
FILE_INTERVAL: Final = 60.0
#: Shortest time between two collections for new task names, in seconds.
NAMES_INTERVAL: Final = 1.0
#: Time between two collections for an application's meter provider, in seconds.
SHOW_INTERVAL: Final = 1.0


class Figures(NamedTuple):
    """Input of the metrics, in addition to what the router counts."""

    summary: RunSummary
    wasted: Mapping[tuple[str, str], float]
    scheduler: SchedulerSample | None
    facts: int
    facts_dropped: int
    errors: int
    lag: float


class MetricRouter:
    """Collects the run's metrics when they are due; called by the recorder's thread only."""

    def __init__(
        self,
        resource: Resource,
        exporter: RunsMetricExporter,
        clock: Callable[[], float],
    ) -> None:
        self._resource = resource
        self._exporter = exporter
        self._clock = clock
        self._started = nanoseconds(clock())
        self._meter = Meter()
        self._file_reader = Reader(resource, self._started)
        self._application: ApplicationInstruments | None = None
        self._relayed: RelayedMetrics | None = None
        #: Lines of attempts whose spans are not decided on yet.
        self._attempts: list[Record] = []
        self._identity = identity_of(resource)
        self._shippers: list[tuple[Shipper[MetricsData], Reader]] = []
        #: Whether OTEL_METRICS_EXEMPLAR_FILTER allows exemplars.
        self._has_exemplars = True
        #: Whether it allows those of what is not sampled: they name no span.
        self.has_unlinked_exemplars = False
        self._interval = 0.0
        self._next_sent = self._next_written = self._next_shown = 0.0
        #: When metrics were last sent, and how many task names there were.
        self._last_sent = 0.0
        self._names_sent = 0

    @property
    def shippers(self) -> list[Shipper[MetricsData]]:
        """What sends them."""
        return [shipper for shipper, _ in self._shippers]

    def open(
        self,
        exporters: Sequence[Any],
        provider: Any,
        environ: Mapping[str, str],
        on_trouble: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """Start to collect for exporters and the application's provider, if there is one."""
        self._interval = interval = _interval(environ)
        exemplars = environ.get(EXEMPLAR_FILTER, "").strip().lower()
        self._has_exemplars = exemplars != "always_off"
        self.has_unlinked_exemplars = exemplars == "always_on"
        now = monotonic()
        # At once: what has counted nothing yet begins with 0.
        self._next_sent = now
        self._next_written = now + max(interval, FILE_INTERVAL)
        for exporter in exporters:
            sink = ExporterSink[MetricsData](exporter, single=True)
            shipper = Shipper("metrics", sink, Limits(QUEUE, 1, 0.0), on_trouble)
            self._shippers.append((shipper, Reader(self._resource, self._started, exporter)))
        if provider is not None:
            self._application = ApplicationInstruments.of(provider)
            self._relayed = RelayedMetrics(provider, warn)

    def add(self, file: str, records: Sequence[Record]) -> None:
        """Count records as they were written."""
        self._meter.add(file, records)
        if file == TASKS and (self._application is not None or self._shippers):
            self._attempts += filter(is_end, records)

    def record_attempts(self, is_sent: Callable[[SpanContext], bool]) -> None:
        """Take exemplars of spans that are sent, and record attempts in the application's
        instruments. Called when it was decided which spans are sent.
        """
        attempts, self._attempts = self._attempts, []
        if attempts and self._shippers and self._has_exemplars:
            self._meter.note_exemplars(attempts, is_sent, all_of_them=self.has_unlinked_exemplars)
        if attempts and self._application is not None:
            self._application.record(self._identity, attempts, self._meter.shown, is_sent)

    def add_points(self, points: Sequence[UsagePoint]) -> None:
        """Write the usage of workers, and note it for the next collection."""
        self._exporter.export(usage_metrics(points, self._resource))
        for attributes, sample in points:
            self._meter.take_sample(str(attributes[semconv.ENTITY_ID]), sample)

    def export(self, data: MetricsData) -> None:
        """Write and send metrics that user code made."""
        self._exporter.export(data)
        for shipper, _ in self._shippers:
            shipper.put((data,))
        if self._relayed is not None:
            self._relayed.record(data)

    def collect(
        self,
        figures: Figures,
        shippers: Sequence[Shipper[Any]],
        summarized: int | None,
        *,
        last_until: float | None = None,
    ) -> None:
        """Collect wherever it is time to.

        For the last time everywhere, now: an application's provider is flushed until `last_until`
        (:func:`time.monotonic`).

        The counts of the `shippers` of all signals are metrics as well, and so is the number of
        attempts that rollup spans summarise, where spans are sent.
        """
        now, last = monotonic(), last_until is not None
        send = bool(self._shippers) and (last or self._is_due(now))
        write = last or now >= self._next_written
        application = self._application if last or now >= self._next_shown else None
        if not (send or write or application):
            return
        snapshot = self._meter.snapshot(
            figures.summary.states(ended=last),
            figures.summary.by_name(),
            figures.wasted,
            figures.scheduler,
            _health(figures, shippers, summarized),
            ended=last,
        )
        at = nanoseconds(self._clock())
        begun = self._meter.with_zeros(snapshot) if send or application else snapshot
        if send:
            self._next_sent = now + self._interval
            self._last_sent, self._names_sent = now, self._meter.names
            for shipper, reader in self._shippers:
                shipper.put((reader.read(begun, at),))
        if write:
            self._next_written = now + max(self._interval, FILE_INTERVAL)
            self._exporter.export(self._file_reader.read(snapshot, at))
        if application is not None:
            self._next_shown = now + SHOW_INTERVAL
            if last_until is None:
                application.show(self._identity, begun)
            else:
                application.end(self._identity, begun, last_until)

    def _is_due(self, now: float) -> bool:
        """Whether to send: an interval has passed, or there are new names whose counts are 0."""
        if now >= self._next_sent:
            return True
        return self._meter.names > self._names_sent and now >= self._last_sent + NAMES_INTERVAL


def _interval(environ: Mapping[str, str]) -> float:
    return number_in(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1e3 or 60.0


def _health(
    figures: Figures, shippers: Sequence[Shipper[Any]], summarized: int | None
) -> Mapping[Instrument, Mapping[Attributes, float]]:
    """The telemetry's own counts."""
    return {
        instruments.FACTS: {(): figures.facts},
        instruments.FACTS_DROPPED: {(): figures.facts_dropped},
        instruments.ERRORS: {(): figures.errors},
        instruments.LAG: {(): figures.lag},
        instruments.SUMMARIZED: {} if summarized is None else {(): summarized},
        **shipper_metrics(shippers),
    }

"""Runs recorded in memory, with a clock that moves only on request and ids that count."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Any, Final, Unpack

from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from scalable.api import Instrumentation
from scalable.begin import Substitutes, begin
from scalable.common.guard import Warnings
from scalable.common.options import InstrumentOptions, resolve
from scalable.facts import Batch, Fact
from scalable_runs import fields
from scalable_runs.reader import RunReader
from scalable_runs.schema import RunStatus, TaskRecord
from scalable_runs.stores.memory import MemoryStore

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "MEASURED",
    "START",
    "CountingIds",
    "InMemorySignals",
    "RecordedRun",
    "StepClock",
    "record_facts",
    "record_in_memory",
]

#: Where a :class:`StepClock` begins: 2026-01-01T00:00:00Z.
START: Final = 1_767_225_600.0
#: Fields that a real cluster's clocks, ports and processes decide, among them all times and
#: durations of tasks: see :meth:`RecordedRun.lines`.
MEASURED: Final = frozenset(
    {"timestamp", "trace_id", "span_id", "worker", "worker_id", "entity_id", "seq", "details"}
    | {"observed_cpu", "observed_memory_gb", "observed_memory_limit_gb"}
    | {
        name
        for name, field in fields.fields_of(TaskRecord).items()
        if field.unit == "s" or field.kind is fields.time
    }
)


class StepClock:
    """A clock that moves only on request; any thread may read it.

    Parameters
    ----------
    start : float
        First time, in seconds since the epoch.
    """

    def __init__(self, start: float = START) -> None:
        self._now = start

    def __call__(self) -> float:
        """The time in seconds since the epoch."""
        return self._now

    def step(self, seconds: float = 1.0) -> None:
        """Move on."""
        self._now += seconds


class CountingIds(IdGenerator):
    """Trace and span ids 1, 2, 3, …; for OpenTelemetry's SDK too."""

    def __init__(self) -> None:
        self._traces = self._spans = 0

    def generate_trace_id(self) -> int:
        """The next trace id."""
        self._traces += 1
        return self._traces

    def generate_span_id(self) -> int:
        """The next span id."""
        self._spans += 1
        return self._spans


class InMemorySignals:
    """Providers of OpenTelemetry's SDK that keep what they are given.

    Attributes
    ----------
    tracer_provider, meter_provider, logger_provider
        For the options of :func:`scalable.instrument`.
    """

    def __init__(self, ids: IdGenerator | None = None) -> None:
        resource = Resource({})
        self._spans, self._logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(
            id_generator=ids, resource=resource, shutdown_on_exit=False
        )
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meter_provider = MeterProvider(
            [self._reader], resource=resource, shutdown_on_exit=False
        )
        self.logger_provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Spans that have ended, in the order in which they were sent."""
        return self._spans.get_finished_spans()

    @property
    def logs(self) -> tuple[ReadableLogRecord, ...]:
        """Log records and events."""
        return self._logs.get_finished_logs()

    def metrics(self) -> MetricsData | None:
        """Collect the metrics as they are now."""
        return self._reader.get_metrics_data()


class RecordedRun:
    """A run in memory.

    Attributes
    ----------
    run_id : str
        Id of the run.
    store : MemoryStore
        Its documents and journals.
    signals : InMemorySignals
        What was sent besides.
    instrumentation : Instrumentation
        What :func:`scalable.instrument` would have returned.
    """

    def __init__(
        self, store: MemoryStore, signals: InMemorySignals, instrumentation: Instrumentation
    ) -> None:
        self.run_id = instrumentation.run_id
        self.store = store
        self.signals = signals
        self.instrumentation = instrumentation

    @property
    def reader(self) -> RunReader:
        """A reader of the run as it is now."""
        return RunReader(self.store)

    def lines(self, file: str, *, without: Collection[str] = ()) -> list[dict[str, Any]]:
        """The records of a journal that have been written.

        Parameters
        ----------
        file : str
            Its name, such as ``tasks.jsonl``.
        without : collection of str
            Names of fields to leave out, such as :data:`MEASURED` for a run on a real cluster.
        """
        return [
            {name: value for name, value in record.items() if name not in without}
            for record in self.reader.records(file)
        ]


@contextmanager
def record_in_memory(
    client: Client | None, **options: Unpack[InstrumentOptions]
) -> Generator[RecordedRun]:
    """Record what a client's cluster does, in memory.

    Times are those of the cluster; the ids of traces and of submissions count from 1.

    Parameters
    ----------
    client : distributed.Client
        The client to record.
    options
        Of :func:`scalable.instrument`.

    Yields
    ------
    RecordedRun
        The run. It is closed, and complete, when the block has been left.
    """
    with _begun(client, Substitutes(time, CountingIds()), options) as run, run.instrumentation:
        yield run


def record_facts(
    facts: Iterable[Fact],
    *,
    clock: StepClock | None = None,
    status: RunStatus = "completed",
    **options: Unpack[InstrumentOptions],
) -> RecordedRun:
    """Record facts as if a cluster had reported them; returns the closed run.

    The same facts give the same lines and spans. What the recorder measures of itself, such as its
    queues in `metrics.jsonl`, depends on its threads.

    Parameters
    ----------
    facts : iterable
        What :mod:`scalable.facts` declares, in order.
    clock : StepClock, optional
        The time of what has no time of its own.
    status : {"completed", "failed", "cancelled"}
        How the run ends.
    options
        Of :func:`scalable.instrument`.
    """
    clock = clock or StepClock()
    source = _Facts(facts, clock)
    with _begun(None, Substitutes(clock, CountingIds(), source), options) as run:
        run.instrumentation.close(status)
    return run


class _Facts:
    """A source that has all facts from the beginning."""

    def __init__(self, facts: Iterable[Fact], clock: StepClock) -> None:
        self._facts = list(facts)
        self._clock = clock

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on."""
        found = self._facts[after - 1 : after - 1 + limit]
        following = after + len(found)
        return Batch(found, following, following <= len(self._facts), 0, {}, self._clock())

    def close(self) -> None:
        """Nothing to release."""


@contextmanager
def _begun(
    client: Client | None, substitutes: Substitutes, options: InstrumentOptions
) -> Generator[RecordedRun]:
    signals = InMemorySignals(substitutes.ids)
    providers: InstrumentOptions = {
        "project": "test",
        "tracer_provider": signals.tracer_provider,
        "meter_provider": signals.meter_provider,
        "logger_provider": signals.logger_provider,
        # It differs from machine to machine.
        "environment": False,
    }
    settings = resolve({**providers, **options})
    run_id = f"run-20260101T000000Z-{settings.project}-00000001"
    store = MemoryStore(run_id)
    with ExitStack() as undo:
        recording = begin(
            run_id,
            substitutes.clock(),
            client,
            settings,
            None,
            process=None,
            warn=Warnings("scalable: "),
            undo=undo,
            substitutes=replace(substitutes, store=store),
        )
        instrumentation = Instrumentation(recording)
        undo.pop_all()
    yield RecordedRun(store, signals, instrumentation)

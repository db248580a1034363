"""Spans, metrics and log records that user code makes in a worker process reach the run from here.

Where a worker's process has no provider of its own, ours stand in their place: what they record
travels to the scheduler with the worker's facts, so that no worker needs to reach a collector. They
stand there without having been *set*: a provider that user code sets later still counts, is the one
that exports from then on, and whoever holds one of our tracers, instruments or loggers is passed on
to it. The SDK is imported when user code first records something.

This module is used in processes that are workers and nothing else: an application's globals are its
own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LogRecord

from scalable import facts
from scalable.common.forks import let_go_in_forks, no_fork
from scalable.common.guard import Guard
from scalable.common.otel_environment import usable_environment
from scalable.instrumentation import dask_compat, otel_compat
from scalable.instrumentation.outbox import Outbox, attributes_of, encode
from scalable.instrumentation.propagation import attempt_of, run_of

if TYPE_CHECKING:
    from distributed import Worker

#: Shortest time between two collections of metrics, in seconds: what of them a SIGKILL costs.
COLLECT_INTERVAL: Final = 0.5
#: Time between two collections where only observed instruments may have changed, in seconds.
OBSERVE_INTERVAL: Final = 10.0

#: Variables by which a process names providers of its own.
_PROVIDER_VARIABLES: Final = {
    "traces": "OTEL_PYTHON_TRACER_PROVIDER",
    "metrics": "OTEL_PYTHON_METER_PROVIDER",
    "logs": "_OTEL_PYTHON_LOGGER_PROVIDER",
}
#: Command lines of Dask by which a process becomes a worker without a nanny.
_WORKER_COMMANDS: Final = ("dask_worker", "dask_spec", "dask-worker", "dask-spec")


def is_worker_process(worker: Worker) -> bool:
    """Whether this process is that worker's and nobody else's."""
    if dask_compat.schedulers_here():
        return False
    if worker.nanny is not None:
        return True
    program = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119
    return program.removesuffix(".py") in _WORKER_COMMANDS or (
        program == "dask" and "worker" in sys.argv[1:2]
    )


def otel_disabled() -> bool:
    """The specification's switch: nothing is recorded by user code."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


class Clock(Protocol):
    """How far the scheduler's clock is ahead of ours, in seconds."""

    def __call__(self) -> float:
        """Seconds."""
        ...


class RelayProviders:
    """The providers of one worker process.

    :meth:`start`, :meth:`collect` and :meth:`stop` are called by the worker's event loop; what the
    providers hand out is used by any thread, and puts what it records into the outbox.
    """

    def __init__(self, outbox: Outbox, clock: Clock, guard: Guard) -> None:
        self.outbox = outbox
        self.guard = guard
        self.clock = clock
        self.tracer_provider = RelayTracerProvider(self)
        self.meter_provider = RelayMeterProvider(self)
        self.logger_provider = RelayLoggerProvider(self)
        #: Something was measured since the last collection.
        self.measured = False
        self._sdk: Any = None
        self._collected = 0.0
        self._placed: list[otel_compat.Signal] = []

    def start(self) -> None:
        """Stand in where nobody has set a provider."""
        providers: dict[otel_compat.Signal, Any] = {
            "traces": self.tracer_provider,
            "metrics": self.meter_provider,
            "logs": self.logger_provider,
        }
        let_go_in_forks(self)
        for signal, provider in providers.items():
            free = otel_compat.otel_provider(signal) is None
            if free and _PROVIDER_VARIABLES[signal] not in os.environ:
                with no_fork:
                    otel_compat.place_otel_provider(signal, provider)
                self._placed.append(signal)

    def stop(self) -> None:
        """Leave the process as it was; what user code has set meanwhile stays."""
        self.collect(force=True)
        self.after_fork()

    def after_fork(self) -> None:
        """Stand aside: nobody in a forked process takes what its code would record."""
        for signal in self._placed:
            if otel_compat.otel_provider(signal) in (
                self.tracer_provider,
                self.meter_provider,
                self.logger_provider,
            ):
                otel_compat.place_otel_provider(signal, None)
        self._placed.clear()

    def sdk(self) -> Any:
        """The SDK behind the providers, imported and made at first use."""
        if self._sdk is None:
            # A forked process would wait for ever for what this one was importing.
            with no_fork:
                if self._sdk is None:
                    with usable_environment():
                        from scalable.instrumentation.relay_sdk import RelaySdk

                        self._sdk = RelaySdk(self.on_span_start, self.on_span_end)
        return self._sdk

    # -- spans ------------------------------------------------------------------------------------

    def on_span_start(self, span: Any, parent: Any) -> None:
        """Remember in which attempt a span was opened; in the thread that opened it."""
        span.scalable_attempt = attempt_of(trace.get_current_span(parent))

    def on_span_end(self, span: Any, attempt: Any) -> None:
        """Put an ended span into the outbox; in the thread that ended it."""
        try:
            item = encode(span_item(span, int(self.clock() * 1e9), attempt))
            self.outbox.put(facts.RELAY_SPANS, run_of(attempt), item)
        except BaseException as error:
            self.guard.failed("relay_span", error)

    # -- metrics ----------------------------------------------------------------------------------

    def collect(self, *, force: bool = False) -> None:
        """Put what was measured into the outbox, at most once in :data:`COLLECT_INTERVAL`."""
        now = monotonic()
        due = COLLECT_INTERVAL if self.measured else OBSERVE_INTERVAL
        if self._sdk is None or not (force or now - self._collected >= due):
            return
        self._collected = now
        self.measured = False
        try:
            for item in self._sdk.metric_items(int(self.clock() * 1e9)):
                self.outbox.put(facts.RELAY_METRICS, None, encode(item))
        except BaseException as error:
            self.guard.failed("relay_metrics", error)

    # -- log records ------------------------------------------------------------------------------

    def on_log(self, record: LogRecord, scope: tuple[Any, ...]) -> None:
        """Put a record of the logs API into the outbox; in the thread that emitted it."""
        try:
            attempt = attempt_of(trace.get_current_span(record.context))
            shift = int(self.clock() * 1e9)
            severity = record.severity_number
            item = {
                "time": shift + (record.timestamp or record.observed_timestamp or 0),
                "severity": None if severity is None else severity.value,
                "severity_text": record.severity_text,
                "event": record.event_name,
                "body": record.body,
                "attributes": attributes_of(record.attributes),
                "scope": scope,
                **where(record.trace_id, record.span_id, record.trace_flags, attempt),
            }
            self.outbox.put(facts.RELAY_LOGS, run_of(attempt), encode(item))
        except BaseException as error:
            self.guard.failed("relay_log", error)


def span_item(span: Any, shift: int, attempt: Any) -> dict[str, Any]:
    """An ended span as plain data, its times on the scheduler's clock."""
    ids = span.get_span_context()
    assert ids is not None
    parent = span.parent
    scope = span.instrumentation_scope
    return {
        "name": span.name,
        "kind": span.kind.value,
        "start": (span.start_time or 0) + shift,
        "end": (span.end_time or span.start_time or 0) + shift,
        "parent": f"{parent.span_id:016x}" if parent is not None else None,
        "state": ids.trace_state.to_header(),
        "status": (span.status.status_code.value, span.status.description),
        "attributes": attributes_of(span.attributes),
        "events": [
            (event.name, event.timestamp + shift, attributes_of(event.attributes))
            for event in span.events
        ],
        "links": [
            (
                f"{link.context.trace_id:032x}",
                f"{link.context.span_id:016x}",
                int(link.context.trace_flags),
                attributes_of(link.attributes),
            )
            for link in span.links
        ],
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "scope": scope_of(scope),
        **where(ids.trace_id, ids.span_id, ids.trace_flags, attempt),
    }


def where(trace_id: int | None, span_id: int | None, flags: Any, attempt: Any) -> dict[str, Any]:
    """To which trace, span and task a signal belongs."""
    return {
        "trace": f"{trace_id:032x}" if trace_id else None,
        "span": f"{span_id:016x}" if span_id else None,
        "flags": int(flags or 0),
        "task": attempt.key if attempt is not None else None,
    }


def scope_of(scope: Any) -> tuple[Any, ...]:
    """An instrumentation scope: name, version, URL of its schema."""
    return (scope.name, scope.version, scope.schema_url) if scope is not None else ("", None, None)


# -- what is handed out ---------------------------------------------------------------------------


class RelayTracerProvider(trace.TracerProvider):
    """Stands in for a tracer provider; used by any thread."""

    def __init__(self, relay: RelayProviders) -> None:
        self._relay = relay

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        """A tracer that follows whichever provider the process has."""
        return _Tracer(
            _Following(
                "traces",
                self,
                lambda: self._relay.sdk().tracer_provider.get_tracer(*args, **kwargs),
                lambda provider: provider.get_tracer(*args, **kwargs),
                trace.NoOpTracer(),
            )
        )


class RelayMeterProvider(metrics.MeterProvider):
    """Stands in for a meter provider; used by any thread."""

    def __init__(self, relay: RelayProviders) -> None:
        self._relay = relay

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> metrics.Meter:
        """A meter whose instruments follow whichever provider the process has."""
        return _Meter(self._relay, name, args, kwargs)


class RelayLoggerProvider(_logs.LoggerProvider):
    """Stands in for a logger provider; used by any thread."""

    def __init__(self, relay: RelayProviders) -> None:
        self._relay = relay

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> _logs.Logger:
        """A logger that follows whichever provider the process has."""
        return _Logger(self._relay, name, version, schema_url, attributes)


class _Following:
    """Finds what to use now: ours, that of the provider set meanwhile, or none at all."""

    __slots__ = ("_foreign", "_make", "_make_foreign", "_mine", "_none", "_provider", "_signal")

    def __init__(
        self,
        signal: otel_compat.Signal,
        provider: Any,
        make: Callable[[], Any],
        make_foreign: Callable[[Any], Any],
        none: Any,
    ) -> None:
        self._signal: otel_compat.Signal = signal
        self._provider = provider
        self._make = make
        self._make_foreign = make_foreign
        self._none = none
        self._mine: Any = None
        self._foreign: tuple[Any, Any] = (None, None)

    def now(self) -> Any:
        provider = otel_compat.otel_provider(self._signal)
        if provider is self._provider:
            if self._mine is None:
                self._mine = self._make()
            return self._mine
        if provider is None:
            return self._none
        if self._foreign[0] is not provider:
            self._foreign = (provider, self._make_foreign(provider))
        return self._foreign[1]


class _Tracer(trace.Tracer):
    def __init__(self, following: _Following) -> None:
        self._following = following

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._following.now().start_span(*args, **kwargs)

    # The API's is a context manager that also decorates; so is what is returned here.
    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._following.now().start_as_current_span(*args, **kwargs)


class _Meter(metrics.Meter):
    def __init__(
        self, relay: RelayProviders, name: str, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        self._relay = relay
        self._args = (name, *args)
        self._kwargs = kwargs

    def create_counter(self, *args: Any, **kwargs: Any) -> metrics.Counter:
        return _Counter(self._relay, self._follow("create_counter", args, kwargs))

    def create_up_down_counter(self, *args: Any, **kwargs: Any) -> metrics.UpDownCounter:
        return _UpDownCounter(self._relay, self._follow("create_up_down_counter", args, kwargs))

    def create_histogram(self, *args: Any, **kwargs: Any) -> metrics.Histogram:
        return _Histogram(self._relay, self._follow("create_histogram", args, kwargs))

    def create_gauge(self, *args: Any, **kwargs: Any) -> Any:
        return _Gauge(self._relay, self._follow("create_gauge", args, kwargs))

    # Observed instruments have no call of their own that could follow: they stay with the provider
    # that the process had when they were made.
    def create_observable_counter(self, *args: Any, **kwargs: Any) -> metrics.ObservableCounter:
        return self._follow("create_observable_counter", args, kwargs).now()

    def create_observable_up_down_counter(
        self, *args: Any, **kwargs: Any
    ) -> metrics.ObservableUpDownCounter:
        return self._follow("create_observable_up_down_counter", args, kwargs).now()

    def create_observable_gauge(self, *args: Any, **kwargs: Any) -> metrics.ObservableGauge:
        return self._follow("create_observable_gauge", args, kwargs).now()

    def _follow(self, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> _Following:
        def make(provider: Any) -> Any:
            meter = provider.get_meter(*self._args, **self._kwargs)
            return getattr(meter, method)(*args, **kwargs)

        nothing = metrics.NoOpMeter(str(self._args[0]))
        return _Following(
            "metrics",
            self._relay.meter_provider,
            lambda: make(self._relay.sdk().meter_provider),
            make,
            getattr(nothing, method)(*args, **kwargs),
        )


class _Instrument:
    # Not the constructor of the API's: the name is checked by what is followed.
    def __init__(self, relay: RelayProviders, following: _Following) -> None:
        self._relay = relay
        self._following = following


class _Counter(_Instrument, metrics.Counter):
    def add(self, *args: Any, **kwargs: Any) -> None:
        self._following.now().add(*args, **kwargs)
        self._relay.measured = True


class _UpDownCounter(_Instrument, metrics.UpDownCounter):
    def add(self, *args: Any, **kwargs: Any) -> None:
        self._following.now().add(*args, **kwargs)
        self._relay.measured = True


class _Histogram(_Instrument, metrics.Histogram):
    def record(self, *args: Any, **kwargs: Any) -> None:
        self._following.now().record(*args, **kwargs)
        self._relay.measured = True


_GaugeBase: Any = getattr(metrics, "Gauge", getattr(metrics, "_Gauge", object))


class _Gauge(_Instrument, _GaugeBase):
    def set(self, *args: Any, **kwargs: Any) -> None:
        self._following.now().set(*args, **kwargs)
        self._relay.measured = True


class _Logger(_logs.Logger):
    def __init__(
        self,
        relay: RelayProviders,
        name: str,
        version: str | None,
        schema_url: str | None,
        attributes: Any,
    ) -> None:
        super().__init__(name, version, schema_url, attributes)
        self._relay = relay
        self._scope = (name, version, schema_url)
        arguments = (name, version, schema_url, attributes)
        self._following = _Following(
            "logs",
            relay.logger_provider,
            lambda: None,
            lambda provider: provider.get_logger(*arguments),
            _logs.NoOpLogger(name),
        )

    def enabled(self, **asked: Any) -> bool:
        target = self._following.now()
        return True if target is None else target.enabled(**asked)

    def emit(self, record: LogRecord | None = None, **fields: Any) -> None:
        target = self._following.now()
        if target is None:
            self._relay.on_log(LogRecord(**fields) if record is None else record, self._scope)
        elif record is None:
            target.emit(**fields)
        else:
            target.emit(record)

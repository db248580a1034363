"""Providers that relay what user code in a worker process records to the scheduler.

Where a process has no provider, ours take its place: spans, metrics and log records travel with the
worker's facts, so that no worker needs to reach a collector. They are placed, not *set*: a provider
that user code sets later still counts and exports from then on, and tracers, instruments and
loggers that were handed out before use it too. The SDK is imported when user code first records
something.

Used in processes that are workers and nothing else: an application's globals are its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry._logs import LogRecord

from scalable import facts
from scalable.common.carriers import chosen_baggage
from scalable.common.forks import let_go_in_forks, no_fork
from scalable.common.guard import Guard
from scalable.common.otel_environment import usable_environment
from scalable.instrumentation import dask_compat, otel_compat
from scalable.instrumentation.outbox import Outbox
from scalable.instrumentation.propagation import (
    RunningAttempt,
    attempt_of,
    labels_of,
    run_of,
)
from scalable.instrumentation.provider_proxies import (
    ProxyLoggerProvider,
    ProxyMeterProvider,
    ProxyTracerProvider,
)
from scalable.instrumentation.relay_encoder import log_item, span_item
from scalable.instrumentation.relay_values import encode

if TYPE_CHECKING:
    from distributed import Worker

#: Shortest time between two collections of metrics, in seconds: what of them a SIGKILL costs.
COLLECT_INTERVAL: Final = 0.5
#: Time between two collections where only observed instruments may have changed, in seconds.
OBSERVE_INTERVAL: Final = 10.0

#: Variables by which a process names providers of its own.
_PROVIDER_VARIABLES: Final[dict[otel_compat.Signal, str]] = {
    "traces": "OTEL_PYTHON_TRACER_PROVIDER",
    "metrics": "OTEL_PYTHON_METER_PROVIDER",
    "logs": "_OTEL_PYTHON_LOGGER_PROVIDER",
}
#: Command lines of Dask by which a process becomes a worker without a nanny.
_WORKER_COMMANDS: Final = ("dask_worker", "dask_spec", "dask-worker", "dask-spec")


def is_worker_process(worker: Worker) -> bool:
    """Whether this process exists for that worker alone."""
    if dask_compat.schedulers_here():
        return False
    if worker.nanny is not None:
        return True
    program = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119
    return program.removesuffix(".py") in _WORKER_COMMANDS or (
        # The latter is `python -m dask`.
        program in ("dask", "__main__.py") and "worker" in sys.argv[1:2]
    )


class RelayProviders:
    """The providers of one worker process.

    :meth:`start`, :meth:`collect` and :meth:`stop` are called by the worker's event loop; what the
    providers hand out is used by any thread, and puts what it records into the outbox.

    Parameters
    ----------
    outbox : Outbox
        Takes what is recorded.
    clock : callable
        How far the scheduler's clock is ahead, in seconds.
    guard : Guard
        Counts what went wrong.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], float], guard: Guard) -> None:
        self.outbox = outbox
        self.guard = guard
        self._clock = clock
        self.tracer_provider = ProxyTracerProvider(self)
        self.meter_provider = ProxyMeterProvider(self)
        self.logger_provider = ProxyLoggerProvider(self)
        self._ours: dict[otel_compat.Signal, Any] = {
            "traces": self.tracer_provider,
            "metrics": self.meter_provider,
            "logs": self.logger_provider,
        }
        #: Something was measured since the last collection.
        self.measured = False
        self._sdk: Any = None
        self._collected = 0.0
        self._placed: list[otel_compat.Signal] = []

    def start(self) -> None:
        """Set those providers that the process has not set."""
        let_go_in_forks(self)
        for signal, provider in self._ours.items():
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
        """Unset the providers: what the code of a forked process records is not collected."""
        for signal in self._placed:
            if otel_compat.otel_provider(signal) is self._ours[signal]:
                otel_compat.place_otel_provider(signal, None)
        self._placed.clear()

    def sdk(self) -> Any:
        """The SDK behind the providers, imported and made at first use."""
        if self._sdk is None:
            # A process forked during the import would wait for ever for its end.
            with no_fork:
                if self._sdk is None:
                    with usable_environment():
                        from scalable.instrumentation.relay_sdk import RelaySdk

                        self._sdk = RelaySdk(self.on_span_start, self.on_span_end)
        return self._sdk

    def on_span_start(self, span: Any, parent: Any) -> None:
        """Remember in which attempt a span was opened; in the thread that opened it."""
        attempt = span.scalable_attempt = attempt_of(trace.get_current_span(parent))
        try:
            labels = labels_of(attempt)
            if labels:
                own = span.attributes or {}
                labels = labels | chosen_baggage(labels, parent)
                span.set_attributes({name: it for name, it in labels.items() if name not in own})
        except BaseException as error:
            self.guard.failed("relay_span", error)

    def on_span_end(self, span: Any, attempt: Any) -> None:
        """Put an ended span into the outbox; in the thread that ended it."""
        try:
            item = encode(span_item(span, self._shift(attempt), attempt))
            self.outbox.put(facts.RELAY_SPANS, run_of(attempt), item)
        except BaseException as error:
            self.guard.failed("relay_span", error)

    def on_log(self, record: LogRecord, scope: tuple[Any, ...]) -> None:
        """Put a record of the logs API into the outbox; in the thread that emitted it."""
        try:
            attempt = attempt_of(trace.get_current_span(record.context))
            item = encode(log_item(record, scope, self._shift(attempt), attempt))
            self.outbox.put(facts.RELAY_LOGS, run_of(attempt), item)
        except BaseException as error:
            self.guard.failed("relay_log", error)

    def collect(self, *, force: bool = False) -> None:
        """Put what was measured into the outbox, at most once in :data:`COLLECT_INTERVAL`."""
        now = monotonic()
        due = COLLECT_INTERVAL if self.measured else OBSERVE_INTERVAL
        if self._sdk is None or not (force or now - self._collected >= due):
            return
        self._collected = now
        self.measured = False
        try:
            for item in self._sdk.metric_items(self._shift()):
                self.outbox.put(facts.RELAY_METRICS, None, encode(item))
        except BaseException as error:
            self.guard.failed("relay_metrics", error)

    def _shift(self, attempt: RunningAttempt | None = None) -> int:
        """Nanoseconds to add to times: those of an attempt's own for what its code records."""
        return int((self._clock() if attempt is None else attempt.ahead) * 1e9)

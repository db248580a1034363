"""Metrics of runs in a meter provider of the application."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from opentelemetry import metrics as api
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from scalable.telemetry import instruments, semconv
from scalable.telemetry.instrument import Instrument
from scalable.telemetry.metrics.metering import result_of
from scalable.telemetry.metrics.snapshot import Snapshot, attributes_of, number_of
from scalable.telemetry.signals.spans import SCOPE, span_context
from scalable_runs.schema import Record

#: Seconds for which an application's provider shows the counts of a run that has ended.
SHOWN_AFTER: Final = 300.0

_logger = logging.getLogger("scalable")


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
                    number_of(value), {**shown.attributes, **attributes_of(instrument, key)}
                )
                for shown in self._runs.values()
                if shown.until is None or shown.until > now
                for key, value in shown.snapshot.get(instrument, {}).items()
            ]

        return observe

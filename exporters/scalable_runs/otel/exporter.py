"""Span, log and metric exporters that write a run directory; any OpenTelemetry SDK can use them.

An application that describes its runs itself gives them a writer. Without one (chosen by name,
`OTEL_TRACES_EXPORTER=scalable_runs`), the exporters of a process share one run, made at the first
export under `SCALABLE_RUNS_DIR` and closed when the last of them is shut down.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, Final, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from scalable_runs.otel.encode import RecordMap, encode_logs, encode_metrics, encode_spans
from scalable_runs.plain import iso
from scalable_runs.redact import Redactor
from scalable_runs.rundoc import as_found, new_run_id, run_document
from scalable_runs.schema import Record
from scalable_runs.summary import RunSummary
from scalable_runs.writer import Problem, RunWriter

_logger = logging.getLogger(__name__)

_RUNS_DIR_VARIABLE: Final = "SCALABLE_RUNS_DIR"
_DEFAULT_RUNS_DIR: Final = ".scalable/runs"
_PROVIDER: Final = "opentelemetry"

_T = TypeVar("_T")

#: Called after records were appended, with the file's name and the records.
OnRecords = Callable[[str, Sequence[Record]], None]


class RunsSpanExporter(SpanExporter):
    """Writes ended spans into a run directory.

    The SDK's processor calls it, one `export` at a time, mostly on a thread of its own.

    Parameters
    ----------
    writer
        The run to write to, which the caller closes; without one, the run that the exporters of
        this process share.
    record_map
        Which spans become records of the journals; the others go into spans.jsonl.
    resource
        The run's own resource: signals of another one carry it in their line. The shared run
        keeps it in run.json.
    on_records
        Called after records were appended, with the file and the records.
    flush_on_export
        Hand each export over to the kernel. False leaves that to whoever exports often and in
        small pieces: to `force_flush`, or the writer's `flush`.
    """

    def __init__(
        self,
        writer: RunWriter | None = None,
        *,
        record_map: RecordMap | None = None,
        resource: Resource | None = None,
        on_records: OnRecords | None = None,
        flush_on_export: bool = True,
    ) -> None:
        self._output = _Output(writer, resource, on_records, flush_on_export)
        self._record_map = record_map

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Encode and append; FAILURE only if none of it was taken."""
        if not spans:
            return SpanExportResult.SUCCESS
        taken = self._output.write(
            spans,
            spans[0].resource,
            lambda batch, home: encode_spans(batch, self._record_map, resource=home),
        )
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Hand over what is buffered."""
        return self._output.flush()

    def shutdown(self) -> None:
        """Take nothing more; the last exporter of the shared run closes it."""
        self._output.shutdown()


class RunsLogExporter(LogRecordExporter):
    """Writes log records and events into a run directory.

    The SDK's processor calls it, one `export` at a time, mostly on a thread of its own. The
    parameters are those of :class:`RunsSpanExporter`; what is not routed goes into logs.jsonl.
    """

    def __init__(
        self,
        writer: RunWriter | None = None,
        *,
        record_map: RecordMap | None = None,
        resource: Resource | None = None,
        on_records: OnRecords | None = None,
        flush_on_export: bool = True,
    ) -> None:
        self._output = _Output(writer, resource, on_records, flush_on_export)
        self._record_map = record_map

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Encode and append; FAILURE only if none of it was taken."""
        if not batch:
            return LogRecordExportResult.SUCCESS
        taken = self._output.write(
            batch,
            batch[0].resource,
            lambda batch, home: encode_logs(batch, self._record_map, resource=home),
        )
        return LogRecordExportResult.SUCCESS if taken else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Hand over what is buffered."""
        return self._output.flush()

    def shutdown(self) -> None:
        """Take nothing more; the last exporter of the shared run closes it."""
        self._output.shutdown()


class RunsMetricExporter(MetricExporter):
    """Writes metric points into a run directory.

    The SDK's metric reader calls it, one `export` at a time, mostly on a thread of its own. The
    parameters are those of :class:`RunsSpanExporter` and, by name, those of the SDK's
    `MetricExporter`; what is not routed goes into metrics.jsonl.
    """

    def __init__(
        self,
        writer: RunWriter | None = None,
        *,
        record_map: RecordMap | None = None,
        resource: Resource | None = None,
        on_records: OnRecords | None = None,
        flush_on_export: bool = True,
        preferred_temporality: dict[type, Any] | None = None,
        preferred_aggregation: dict[type, Any] | None = None,
    ) -> None:
        super().__init__(preferred_temporality, preferred_aggregation)
        self._output = _Output(writer, resource, on_records, flush_on_export)
        self._record_map = record_map

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Encode and append; FAILURE only if none of it was taken."""
        collected = metrics_data.resource_metrics
        if not any(scope.metrics for resource in collected for scope in resource.scope_metrics):
            return MetricExportResult.SUCCESS
        taken = self._output.write(
            (metrics_data,),
            collected[0].resource,
            lambda batch, home: encode_metrics(batch[0], self._record_map, resource=home),
        )
        return MetricExportResult.SUCCESS if taken else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Hand over what is buffered."""
        return self._output.flush()

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Take nothing more; the last exporter of the shared run closes it."""
        self._output.shutdown()


class _Output:
    """What the three exporters have in common; called by the thread that calls the exporter."""

    def __init__(
        self,
        writer: RunWriter | None,
        resource: Resource | None,
        on_records: OnRecords | None,
        flush_on_export: bool,
    ) -> None:
        self._writer = writer
        self._resource = resource
        self._on_records = on_records
        self._flush_on_export = flush_on_export
        self._shut_down = False
        if writer is None:
            _shared_run.join(self)

    def write(
        self,
        batch: Sequence[_T],
        resource: Resource | None,
        encode: Callable[[Sequence[_T], Resource | None], Mapping[str, list[Record]]],
    ) -> bool:
        """Return whether anything was taken (or there was nothing to take)."""
        if self._shut_down:
            return False
        home = self._resource
        writer = self._writer
        if writer is None:
            opened = _shared_run.open(resource)
            if opened is None:
                return False
            writer, home = opened
        try:
            encoded = [encode(batch, home)]
        except Exception:
            encoded = [
                files for item in batch if (files := _encode_one(writer, encode, item, home))
            ]
        taken = 0
        for files in encoded:
            for file, made in files.items():
                records = writer.unwritten(file, made)
                if self._writer is None:
                    taken += _shared_run.append(writer, file, records)
                else:
                    taken += writer.append(file, records)
                self._notify(writer, file, records)
        if self._flush_on_export:
            writer.flush()
        return taken > 0 or bool(writer.written)

    def flush(self) -> bool:
        writer = self._writer or _shared_run.writer
        if writer is not None:
            writer.flush()
        return True

    def shutdown(self) -> None:
        if not self._shut_down:
            self._shut_down = True
            if self._writer is None:
                _shared_run.leave(self)
            else:
                self._writer.flush()

    def _notify(self, writer: RunWriter, file: str, records: Sequence[Record]) -> None:
        if self._on_records is None:
            return
        try:
            self._on_records(file, records)
        except Exception as error:
            kind = f"on_records:{type(error).__name__}"
            writer.count_error(kind, f"{type(error).__name__} in on_records: {error}", file)


def _encode_one(
    writer: RunWriter,
    encode: Callable[[Sequence[_T], Resource | None], Mapping[str, list[Record]]],
    item: _T,
    home: Resource | None,
) -> Mapping[str, list[Record]] | None:
    """Keep one malformed signal from taking its batch with it."""
    try:
        return encode((item,), home)
    except Exception as error:
        kind = f"encode:{type(error).__name__}"
        writer.count_error(kind, f"a signal cannot be encoded ({type(error).__name__})")
        return None


class _SharedRun:
    """The run of all exporters of this process that were given none; any thread may call it."""

    def __init__(self) -> None:
        self.writer: RunWriter | None = None
        self._summary = RunSummary()
        self._resource: Resource | None = None
        self._redact = Redactor()
        self._outputs: set[_Output] = set()
        self._lock = threading.Lock()
        self._warned = False

    def join(self, output: _Output) -> None:
        with self._lock:
            self._outputs.add(output)

    def open(self, resource: Resource | None) -> tuple[RunWriter, Resource | None] | None:
        """Return the run, made now if there is none; None if it cannot be made."""
        with self._lock:
            if self.writer is None:
                try:
                    self._redact = Redactor.from_environment(os.environ)
                    self.writer = _create_run(resource, self._redact)
                except OSError as error:
                    if not self._warned:
                        self._warned = True
                        _logger.warning("Signals are not recorded: no run directory: %s", error)
                    return None
                self._resource = resource
                self._summary = RunSummary()
            return self.writer, self._resource

    def append(self, writer: RunWriter, file: str, records: Sequence[Record]) -> int:
        """Append and sum up together: the summary needs the records in their order."""
        records = [self._redact.attributes(record) for record in records]
        with self._lock:
            if writer is self.writer:
                self._summary.add_all(file, records)
            return writer.append(file, records)

    def leave(self, output: _Output) -> None:
        with self._lock:
            self._outputs.discard(output)
            if self._outputs or self.writer is None:
                return
            writer, self.writer, self._resource = self.writer, None, None
            summary = self._summary
        finished = iso(time())
        writer.close(summary.document, status="completed", finished_at=finished)

    def forget(self) -> None:
        """In a forked child: the parent's run is not ours, and its lock may be held for ever."""
        self.writer = None
        self._resource = None
        self._lock = threading.Lock()


_shared_run: Final = _SharedRun()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared_run.forget)


def _create_run(resource: Resource | None, redact: Redactor) -> RunWriter:
    attributes = redact.attributes(resource.attributes) if resource is not None else {}
    project = str(attributes.get("service.name") or "unknown_service")
    started = time()
    found = as_found(project, _PROVIDER)
    return RunWriter.create(
        os.environ.get(_RUNS_DIR_VARIABLE) or _DEFAULT_RUNS_DIR,
        run_document(
            new_run_id(project, started),
            project=project,
            target=found.target,
            provider=_PROVIDER,
            lock=found.lock,
            started=started,
            trace_id="",
            environment={"resource": attributes},
        ),
        manifest=found.manifest,
        plan=found.plan,
        lock=f"{found.lock}\n",
        on_problem=_warn,
    )


def _warn(problem: Problem) -> None:
    _logger.warning("The record of this run may be incomplete: %s", problem.message)

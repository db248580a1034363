"""Span, log and metric exporters that write a run directory; any OpenTelemetry SDK can use them.

An application that describes its runs itself gives them a writer. Without one (chosen by name,
`OTEL_TRACES_EXPORTER=scalable_runs`, or `scalable_runs:` in a configuration file), the exporters of
a process share one run, made at the first export and closed when the last of them is shut down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from scalable_runs.otel.encode import encode_logs, encode_metrics, encode_spans
from scalable_runs.otel.record_map import RecordMap
from scalable_runs.otel.shared_run import shared_run
from scalable_runs.schema import Record
from scalable_runs.writer import RunWriter

#: Called after records were appended, with the file's name and the records.
OnRecords: TypeAlias = Callable[[str, Sequence[Record]], None]


class _RunsExporter:
    """What the three exporters share; see :class:`RunsSpanExporter` for the parameters."""

    def __init__(
        self,
        writer: RunWriter | None = None,
        *,
        record_map: RecordMap | None = None,
        resource: Resource | None = None,
        on_records: OnRecords | None = None,
        flush_on_export: bool = True,
        runs_dir: str | os.PathLike[str] | None = None,
        project: str | None = None,
    ) -> None:
        self._writer = writer
        self._record_map = record_map
        self._resource = resource
        self._on_records = on_records
        self._flush_on_export = flush_on_export
        self._is_shut_down = False
        if writer is None:
            shared_run.join(self, runs_dir, project)
        elif runs_dir is not None or project is not None:
            raise ValueError("runs_dir and project describe the shared run: there is a writer")

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Hand over what is buffered."""
        writer = self._writer or shared_run.writer
        if writer is not None:
            writer.flush()
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Accept nothing more; the last exporter of the shared run closes it."""
        if not self._is_shut_down:
            self._is_shut_down = True
            if self._writer is None:
                shared_run.leave(self)
            else:
                self._writer.flush()

    def _write(
        self,
        batch: Sequence[Any],
        resource: Resource | None,
        encode: Callable[..., Mapping[str, list[Record]]],
    ) -> bool:
        """Encode and append; return whether anything was accepted, or nothing was left to do."""
        if self._is_shut_down:
            return False
        writer, own = self._writer, self._resource
        if writer is None:
            opened = shared_run.open(resource)
            if opened is None:
                return False
            writer, own = opened
        accepted = 0
        for files in self._encoded(writer, batch, encode, own):
            for file, made in files.items():
                records = writer.unwritten(file, made)
                if self._writer is None:
                    accepted += shared_run.append(writer, file, records)
                else:
                    accepted += writer.append(file, records)
                self._notify(writer, file, records)
        if self._flush_on_export:
            writer.flush()
        return accepted > 0 or bool(writer.written)

    def _encoded(
        self,
        writer: RunWriter,
        batch: Sequence[Any],
        encode: Callable[..., Mapping[str, list[Record]]],
        own: Resource | None,
    ) -> list[Mapping[str, list[Record]]]:
        try:
            return [encode(batch, self._record_map, resource=own)]
        except Exception:
            pass
        # One malformed signal must not cost its batch.
        encoded: list[Mapping[str, list[Record]]] = []
        for item in batch:
            try:
                encoded.append(encode((item,), self._record_map, resource=own))
            except Exception as error:
                kind = f"encode:{type(error).__name__}"
                writer.count_error(kind, f"a signal cannot be encoded ({type(error).__name__})")
        return encoded

    def _notify(self, writer: RunWriter, file: str, records: Sequence[Record]) -> None:
        if self._on_records is None:
            return
        try:
            self._on_records(file, records)
        except Exception as error:
            kind = f"on_records:{type(error).__name__}"
            writer.count_error(kind, f"{type(error).__name__} in on_records: {error}", file)


class RunsSpanExporter(_RunsExporter, SpanExporter):
    """Writes ended spans into a run directory.

    The SDK's processor calls it, one `export` at a time, mostly on a thread of its own.

    Parameters
    ----------
    writer
        The run to write to, which the caller closes; without one, the run that the exporters of
        this process share.
    record_map
        Which signals become records of the journals; the others go into spans.jsonl, logs.jsonl
        or metrics.jsonl.
    resource
        The run's own resource: signals of another one carry it in their line. The shared run
        keeps it in run.json.
    on_records
        Called after records were appended, with the file and the records.
    flush_on_export
        Hand each export over to the kernel. False leaves that to `force_flush` and the writer's
        `flush`, for callers that export often and in small pieces.
    runs_dir
        Where the shared run is made: by default `SCALABLE_RUNS_DIR`, else `.scalable/runs`. The
        first exporter that says so decides.
    project
        Name of the shared run's project: by default the name of the service. The first exporter
        that says so decides.
    """

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Encode and append; FAILURE only if nothing was accepted."""
        if spans and not self._write(spans, spans[0].resource, encode_spans):
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


class RunsLogExporter(_RunsExporter, LogRecordExporter):
    """Writes log records and events into a run directory.

    Calls and parameters are as for :class:`RunsSpanExporter`.
    """

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Encode and append; FAILURE only if nothing was accepted."""
        if batch and not self._write(batch, batch[0].resource, encode_logs):
            return LogRecordExportResult.FAILURE
        return LogRecordExportResult.SUCCESS


class RunsMetricExporter(_RunsExporter, MetricExporter):
    """Writes metric points into a run directory.

    Calls and parameters are as for :class:`RunsSpanExporter`, with `preferred_temporality` and
    `preferred_aggregation` of the SDK's `MetricExporter`.
    """

    def __init__(
        self,
        writer: RunWriter | None = None,
        *,
        record_map: RecordMap | None = None,
        resource: Resource | None = None,
        on_records: OnRecords | None = None,
        flush_on_export: bool = True,
        runs_dir: str | os.PathLike[str] | None = None,
        project: str | None = None,
        preferred_temporality: dict[type, Any] | None = None,
        preferred_aggregation: dict[type, Any] | None = None,
    ) -> None:
        MetricExporter.__init__(self, preferred_temporality, preferred_aggregation)
        _RunsExporter.__init__(
            self,
            writer,
            record_map=record_map,
            resource=resource,
            on_records=on_records,
            flush_on_export=flush_on_export,
            runs_dir=runs_dir,
            project=project,
        )

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Encode and append; FAILURE only if nothing was accepted."""
        collected = metrics_data.resource_metrics
        if not any(scope.metrics for resource in collected for scope in resource.scope_metrics):
            return MetricExportResult.SUCCESS
        if self._write((metrics_data,), collected[0].resource, _encode_collections):
            return MetricExportResult.SUCCESS
        return MetricExportResult.FAILURE


def _encode_collections(
    batch: Sequence[MetricsData], record_map: RecordMap | None, *, resource: Resource | None
) -> Mapping[str, list[Record]]:
    (data,) = batch
    return encode_metrics(data, record_map, resource=resource)

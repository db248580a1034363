"""The public name of the exporters, for applications that set up an OpenTelemetry SDK."""

from scalable_runs.otel.exporter import RunsLogExporter, RunsMetricExporter, RunsSpanExporter

__all__ = ["RunsLogExporter", "RunsMetricExporter", "RunsSpanExporter"]

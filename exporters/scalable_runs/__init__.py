"""Run directories: written, read, and exported to by any OpenTelemetry SDK."""

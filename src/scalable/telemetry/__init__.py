"""Facts → OpenTelemetry: the only room that makes spans, metric points and log records."""

"""Facts → OpenTelemetry: the only package that makes spans, metric points and log records."""

"""OpenTelemetry's signals to records and back, and the exporters that write them."""

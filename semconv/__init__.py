"""The names that the package records, in OpenTelemetry's format, and what is generated of them."""

"""Where signals go, and how: the variables ``OTEL_*``, the configuration file, limits and ids."""

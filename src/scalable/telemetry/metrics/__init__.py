"""The run's metrics: aggregated, read, and passed to exporters and to the application."""

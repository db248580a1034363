"""What sends signals: queues, exporters of the SDK, and the application's own providers."""

"""Facts → OpenTelemetry: the only package that makes spans, metric points and log records.

In the order in which a package may import those above it:

- modules here: names of signals and metrics, and how signals become records (``semconv``,
  ``instruments``, ``record_map``)
- :mod:`.signals`: makes spans, log records and metric points
- :mod:`.export`: sends them, to exporters or to the application's providers
- :mod:`.configuration`: where they go, limits and ids
- :mod:`.deaths`: why workers died
- :mod:`.ledger`: facts → signals
- :mod:`.metrics`: aggregates the run's metrics
- :mod:`.spans`: the span budget, and the order in which spans are sent
- :mod:`.submissions`: calls of the client that send graphs
- :mod:`.recorder`: the consumer of facts, which joins all of the above
- :mod:`.process`: a recorder in a process of its own
- :mod:`.resend`: sends a recorded run later
"""

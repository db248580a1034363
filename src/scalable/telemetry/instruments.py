"""The table of metrics.

Generated from semconv/ by `make semconv`: change the YAML there, not this file.
"""

from __future__ import annotations

from typing import Final

from scalable.telemetry import semconv
from scalable.telemetry.instrument import TASK_BOUNDS, Instrument

TASK_DURATION: Final = Instrument(
    "dask.task.duration",
    "histogram",
    "s",
    "Execution of one attempt, never queueing.",
    (semconv.TASK_NAME, semconv.TASK_RESULT),
    bounds=TASK_BOUNDS,
)
TASK_QUEUED: Final = Instrument(
    "dask.task.queue.duration",
    "histogram",
    "s",
    "From the moment a task could run to the start of its attempt.",
    (semconv.TASK_NAME,),
    bounds=TASK_BOUNDS,
)
TASK_TRANSFER: Final = Instrument(
    "dask.task.transfer.duration",
    "histogram",
    "s",
    "Fetching results from other workers for one attempt; attempts that fetched none do not count.",
    (semconv.TASK_NAME,),
    bounds=TASK_BOUNDS,
)
TASK_ATTEMPTS: Final = Instrument(
    "dask.task.attempts",
    "counter",
    "{attempt}",
    "Attempts that ended, by result: success, failure (raised), error (lost), "
    "cancellation, rescheduled.",
    (semconv.TASK_NAME, semconv.TASK_RESULT, semconv.ERROR_TYPE),
)
TASK_RETRIES: Final = Instrument(
    "dask.task.retries",
    "counter",
    "{attempt}",
    "Attempts after which the task runs again.",
    (semconv.TASK_NAME,),
)
TASK_RECOMPUTATIONS: Final = Instrument(
    "dask.task.recomputations",
    "counter",
    "{attempt}",
    "Attempts made again because a result was lost with its worker.",
    (semconv.TASK_NAME,),
)
TASK_WASTED: Final = Instrument(
    "dask.task.wasted.time",
    "counter",
    "s",
    "Execution time wasted, by reason: retry, worker-lost, recomputed, cancelled.",
    (semconv.TASK_NAME, semconv.WASTE_REASON),
)
TASK_CPU: Final = Instrument(
    "dask.task.cpu.time",
    "counter",
    "s",
    "CPU time of the tasks' own threads.",
    (semconv.TASK_NAME,),
)
TASK_OUTPUT: Final = Instrument(
    "dask.task.output.size", "counter", "By", "Size of the results returned.", (semconv.TASK_NAME,)
)
TASK_COUNT: Final = Instrument(
    "dask.task.count",
    "updowncounter",
    "{task}",
    "Tasks of the run by the state they are in now: waiting, running, succeeded, "
    "failed, cancelled; unknown once the run has ended without their end being "
    "recorded.",
    (semconv.TASK_STATE,),
)
WORKER_COUNT: Final = Instrument(
    "dask.worker.count",
    "updowncounter",
    "{worker}",
    "Workers by the state they are in now: running, paused, closing.",
    (semconv.WORKER_STATE,),
)
WORKER_LOST: Final = Instrument(
    "dask.worker.lost",
    "counter",
    "{worker}",
    "Workers that ended without a request.",
    (semconv.WORKER_REASON,),
)
WORKER_THREADS: Final = Instrument(
    "dask.worker.threads", "updowncounter", "{thread}", "Threads that can run tasks."
)
WORKER_CPU: Final = Instrument(
    "dask.worker.cpu.usage",
    "gauge",
    "{cpu}",
    "Cores that a worker's process uses.",
    (semconv.WORKER_NAME,),
)
WORKER_MEMORY: Final = Instrument(
    "dask.worker.memory.usage",
    "updowncounter",
    "By",
    "Memory of a worker's process.",
    (semconv.WORKER_NAME,),
)
WORKER_MEMORY_MANAGED: Final = Instrument(
    "dask.worker.memory.managed",
    "updowncounter",
    "By",
    "Results that a worker keeps in memory.",
    (semconv.WORKER_NAME,),
)
WORKER_MEMORY_UNMANAGED: Final = Instrument(
    "dask.worker.memory.unmanaged",
    "updowncounter",
    "By",
    "Memory of a worker's process other than results: modules, running tasks, leaks.",
    (semconv.WORKER_NAME,),
)
WORKER_MEMORY_SPILLED: Final = Instrument(
    "dask.worker.memory.spilled",
    "updowncounter",
    "By",
    "Results that a worker keeps on disk.",
    (semconv.WORKER_NAME,),
)
WORKER_MEMORY_LIMIT: Final = Instrument(
    "dask.worker.memory.limit",
    "updowncounter",
    "By",
    "Memory that a worker may use.",
    (semconv.WORKER_NAME,),
)
WORKER_LAG: Final = Instrument(
    "dask.worker.event_loop.lag",
    "gauge",
    "s",
    "How late a worker's event loop ran what was due.",
    (semconv.WORKER_NAME,),
)
SCHEDULER_LAG: Final = Instrument(
    "dask.scheduler.event_loop.lag",
    "gauge",
    "s",
    "How late the scheduler's event loop ran what was due.",
)
TRANSFERRED: Final = Instrument(
    "dask.cluster.transfer.io",
    "counter",
    "By",
    "Results moved between workers, of all tasks of the scheduler.",
    (semconv.NETWORK_DIRECTION,),
)
SPILLED: Final = Instrument(
    "dask.cluster.spill.io",
    "counter",
    "By",
    "Results written to disk and read back for lack of memory, of all tasks of the scheduler.",
    (semconv.DISK_DIRECTION,),
)
FACTS: Final = Instrument(
    "scalable.recorder.facts.received", "counter", "{fact}", "Facts that reached the recorder."
)
FACTS_DROPPED: Final = Instrument(
    "scalable.recorder.facts.dropped",
    "counter",
    "{fact}",
    "Facts dropped because they were not fetched in time.",
)
ERRORS: Final = Instrument(
    "scalable.recorder.errors", "counter", "{error}", "Internal errors of the telemetry itself."
)
LAG: Final = Instrument(
    "scalable.recorder.lag",
    "gauge",
    "s",
    "Age of the newest fact when the recorder last took in a batch; 0 while nothing happens.",
)
SPANS_EXPORTED: Final = Instrument(
    "otel.sdk.exporter.span.exported",
    "counter",
    "{span}",
    "Spans whose export has ended; those with `error.type` were not accepted.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME, semconv.ERROR_TYPE),
)
LOGS_EXPORTED: Final = Instrument(
    "otel.sdk.exporter.log.exported",
    "counter",
    "{log_record}",
    "Log records whose export has ended; those with `error.type` were not accepted.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME, semconv.ERROR_TYPE),
)
POINTS_EXPORTED: Final = Instrument(
    "otel.sdk.exporter.metric_data_point.exported",
    "counter",
    "{data_point}",
    "Points of metrics whose export has ended; those with `error.type` were not accepted.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME, semconv.ERROR_TYPE),
)
SPANS_PROCESSED: Final = Instrument(
    "otel.sdk.processor.span.processed",
    "counter",
    "{span}",
    "Spans that left the queue for the exporter; those with `error.type` "
    "(`queue_full`) were dropped.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME, semconv.ERROR_TYPE),
)
SPANS_QUEUED: Final = Instrument(
    "otel.sdk.processor.span.queue.size",
    "updowncounter",
    "{span}",
    "Spans that wait to be sent.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME),
)
SPANS_CAPACITY: Final = Instrument(
    "otel.sdk.processor.span.queue.capacity",
    "updowncounter",
    "{span}",
    "Spans that can wait to be sent.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME),
)
LOGS_PROCESSED: Final = Instrument(
    "otel.sdk.processor.log.processed",
    "counter",
    "{log_record}",
    "Log records that left the queue for the exporter; those with `error.type` "
    "(`queue_full`) were dropped.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME, semconv.ERROR_TYPE),
)
LOGS_QUEUED: Final = Instrument(
    "otel.sdk.processor.log.queue.size",
    "updowncounter",
    "{log_record}",
    "Log records that wait to be sent.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME),
)
LOGS_CAPACITY: Final = Instrument(
    "otel.sdk.processor.log.queue.capacity",
    "updowncounter",
    "{log_record}",
    "Log records that can wait to be sent.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME),
)
POINTS_INFLIGHT: Final = Instrument(
    "otel.sdk.exporter.metric_data_point.inflight",
    "updowncounter",
    "{data_point}",
    "Points of metrics that wait to be sent.",
    (semconv.COMPONENT_TYPE, semconv.COMPONENT_NAME),
)
EXPORT_FAILURES: Final = Instrument(
    "scalable.export.failures",
    "counter",
    "{export}",
    "Exports over OTLP that failed.",
    (semconv.SIGNAL,),
)
SUMMARIZED: Final = Instrument(
    "scalable.export.spans.summarized",
    "counter",
    "{span}",
    "Attempts that rollup spans represent over OTLP; the run directory has them all.",
)

#: The table, in the order of the documentation.
INSTRUMENTS: Final = (
    TASK_DURATION,
    TASK_QUEUED,
    TASK_TRANSFER,
    TASK_ATTEMPTS,
    TASK_RETRIES,
    TASK_RECOMPUTATIONS,
    TASK_WASTED,
    TASK_CPU,
    TASK_OUTPUT,
    TASK_COUNT,
    WORKER_COUNT,
    WORKER_LOST,
    WORKER_THREADS,
    WORKER_CPU,
    WORKER_MEMORY,
    WORKER_MEMORY_MANAGED,
    WORKER_MEMORY_UNMANAGED,
    WORKER_MEMORY_SPILLED,
    WORKER_MEMORY_LIMIT,
    WORKER_LAG,
    SCHEDULER_LAG,
    TRANSFERRED,
    SPILLED,
    FACTS,
    FACTS_DROPPED,
    ERRORS,
    LAG,
    SPANS_EXPORTED,
    LOGS_EXPORTED,
    POINTS_EXPORTED,
    SPANS_PROCESSED,
    SPANS_QUEUED,
    SPANS_CAPACITY,
    LOGS_PROCESSED,
    LOGS_QUEUED,
    LOGS_CAPACITY,
    POINTS_INFLIGHT,
    EXPORT_FAILURES,
    SUMMARIZED,
)

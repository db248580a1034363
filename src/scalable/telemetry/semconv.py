"""All names: of attributes, events, metrics and spans, and which record field each becomes.

``dask.*`` is what Dask did, ``scalable.*`` what the run is; the rest are OpenTelemetry's semantic
conventions. There is none for workflows or tasks yet, hence the namespaces of our own.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.trace import SpanKind

from scalable_runs.encode import RecordMap

SCOPE_NAME: Final = "scalable"

# -- what a signal is a record of ---------------------------------------------------------------

#: Event type of the record that a signal becomes in the run directory.
RECORD: Final = "scalable.record"

# -- the run ------------------------------------------------------------------------------------

RUN_ID: Final = "scalable.run.id"
RUN_STATUS: Final = "scalable.run.status"
PROJECT: Final = "scalable.project.name"
PHASE: Final = "scalable.phase"
PROVIDER: Final = "scalable.provider"

# -- tasks --------------------------------------------------------------------------------------

TASK_KEY: Final = "dask.task.key"
TASK_NAME: Final = "dask.task.name"
TASK_STATE: Final = "dask.task.state"
#: How the attempt ended: success, failure, error, cancellation.
TASK_RESULT: Final = "dask.task.result"
TASK_ATTEMPT: Final = "dask.task.attempt"
TASK_DEPENDENCIES: Final = "dask.task.dependencies"
TASK_DEPENDENCY_COUNT: Final = "dask.task.dependency_count"
TASK_DURATION: Final = "dask.task.duration"
TASK_QUEUED: Final = "dask.task.queue.duration"
TASK_TRANSFER: Final = "dask.task.transfer.duration"
TASK_CPU: Final = "dask.task.cpu.time"
TASK_NBYTES: Final = "dask.task.result.size"
TASK_RESULT_TYPE: Final = "dask.task.result.type"
TASK_BLAME: Final = "dask.task.blame"
TASK_RECOMPUTED: Final = "dask.task.recomputed"
TASK_REOPENS: Final = "dask.task.reopens"
TASK_KNOWN_BEFORE: Final = "dask.task.known_before"
TASK_WILL_RETRY: Final = "dask.task.will_retry"
#: The key once more: a failure record names it beside the message and in the details.
FAILED_TASK: Final = "scalable.failure.task"
#: Graphs that a submission stands for.
GRAPH_COUNT: Final = "dask.graph.count"

ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
FUNCTION_NAME: Final = "code.function.name"

# -- workers ------------------------------------------------------------------------------------

WORKER_ADDRESS: Final = "dask.worker.address"
WORKER_NAME: Final = "dask.worker.name"
WORKER_STATE: Final = "dask.worker.state"
WORKER_NTHREADS: Final = "dask.worker.nthreads"
WORKER_MEMORY_LIMIT: Final = "dask.worker.memory.limit"
WORKER_MEMORY: Final = "dask.worker.memory.last"
WORKER_NANNY: Final = "dask.worker.nanny"
WORKER_REASON: Final = "dask.worker.reason"
WORKER_TASKS_RUNNING: Final = "dask.worker.tasks_running"
WORKER_TASKS_RECOMPUTED: Final = "dask.worker.tasks_recomputed"
WORKER_SPILLED: Final = "dask.worker.spilled"
WORKER_MEMORY_PEAK: Final = "dask.worker.memory.peak"
WORKER_MEMORY_SAMPLES: Final = "dask.worker.memory.samples"
#: Tasks that ran when the worker died.
WORKER_TASKS: Final = "dask.worker.tasks"
MEMORY_KILL: Final = "dask.worker.memory.kill"
HOST_NAME: Final = "host.name"
SERVICE_INSTANCE: Final = "service.instance.id"
EXIT_CODE: Final = "process.exit.code"
PROCESS_SIGNAL: Final = "process.exit.signal"
STDERR_TAIL: Final = "process.stderr.tail"
STDERR_PATH: Final = "process.stderr.path"
OOM_KILLS_GROUP: Final = "process.cgroup.oom_kills"
OOM_KILLS_HOST: Final = "host.oom_kills"
BATCH_SYSTEM: Final = "scalable.batch.system"
BATCH_JOB: Final = "scalable.batch.job"
TIME_LIMIT: Final = "scalable.batch.time_limit"
TIME_LEFT: Final = "scalable.batch.time_left"

# -- why ----------------------------------------------------------------------------------------

CAUSE: Final = "scalable.cause"
CAUSE_CONFIDENCE: Final = "scalable.cause.confidence"
CAUSE_EVIDENCE: Final = "scalable.cause.evidence"
NOT_KNOWN: Final = "scalable.not_known"
EXCEPTION_BASES: Final = "scalable.exception.bases"
EXCEPTION_ERRNO: Final = "scalable.exception.errno"
#: Of a task: the deaths of workers that it was present at.
TASK_DEATHS: Final = "dask.task.deaths"
TASK_DEATHS_PRESENT: Final = "dask.task.deaths.present"
TASK_DEATHS_ALONE: Final = "dask.task.deaths.alone"
PROCESS_PID: Final = "process.pid"

# -- samples ------------------------------------------------------------------------------------

ENTITY_TYPE: Final = "scalable.entity.type"
ENTITY_ID: Final = "scalable.entity.id"
OBSERVED_CPU: Final = "scalable.observed.cpu"
OBSERVED_MEMORY: Final = "scalable.observed.memory_gb"

# -- spans over OTLP alone ----------------------------------------------------------------------

#: Links to attempts whose own spans were left out.
TASK_LINKS_LEFT_OUT: Final = "dask.task.links.left_out"
#: transfer, disk-read, deserialize, …
PHASE_NAME: Final = "dask.phase.name"
PHASE_DURATION: Final = "dask.phase.duration"
#: Single transfers (or reads) that a phase is made of.
PHASE_COUNT: Final = "dask.phase.count"
#: When a span began, where that was before its task's own code did: with its phases.
SPAN_STARTED: Final = "dask.task.phases.start"
RUNNING_KEY: Final = "dask.running.key"
#: Span id of the attempt that a span of something running stands for.
RUNNING_SPAN: Final = "dask.task.span_id"
ROLLUP_COUNT: Final = "dask.rollup.count"
ROLLUP_FAILED: Final = "dask.rollup.failed"
ROLLUP_SUM: Final = "dask.rollup.duration.sum"
ROLLUP_MIN: Final = "dask.rollup.duration.min"
ROLLUP_MAX: Final = "dask.rollup.duration.max"
ROLLUP_BOUNDS: Final = "dask.rollup.duration.bounds"
ROLLUP_BUCKETS: Final = "dask.rollup.duration.bucket_counts"
#: On the run's root: attempts sent as spans, summed up in rollup spans, of unsampled traces.
SPANS_SENT: Final = "scalable.spans.sent"
SPANS_SUMMARIZED: Final = "scalable.spans.summarized"
SPANS_UNSAMPLED: Final = "scalable.spans.unsampled"
#: On the run's root: spans of user code left out, their attempt being left out or too many.
SPANS_FOREIGN_LEFT_OUT: Final = "scalable.spans.user_left_out"
#: Bytes on disk, of an event.
SPILLED_SIZE: Final = "dask.worker.spilled.size"

# -- metrics (their kinds, units and meanings: instruments.py) -----------------------------------

METRIC_TASK_DURATION: Final = TASK_DURATION
METRIC_TASK_QUEUED: Final = TASK_QUEUED
METRIC_TASK_TRANSFER: Final = TASK_TRANSFER
METRIC_TASK_ATTEMPTS: Final = "dask.task.attempts"
METRIC_TASK_RETRIES: Final = "dask.task.retries"
METRIC_TASK_RECOMPUTATIONS: Final = "dask.task.recomputations"
METRIC_TASK_WASTED: Final = "dask.task.wasted.time"
METRIC_TASK_CPU: Final = TASK_CPU
METRIC_TASK_OUTPUT: Final = "dask.task.output.size"
METRIC_TASK_COUNT: Final = "dask.task.count"
METRIC_WORKER_COUNT: Final = "dask.worker.count"
METRIC_WORKER_LOST: Final = "dask.worker.lost"
METRIC_WORKER_THREADS: Final = "dask.worker.threads"
METRIC_WORKER_CPU: Final = "dask.worker.cpu.usage"
METRIC_WORKER_MEMORY: Final = "dask.worker.memory.usage"
METRIC_WORKER_MEMORY_MANAGED: Final = "dask.worker.memory.managed"
METRIC_WORKER_MEMORY_UNMANAGED: Final = "dask.worker.memory.unmanaged"
METRIC_WORKER_MEMORY_SPILLED: Final = "dask.worker.memory.spilled"
METRIC_WORKER_MEMORY_LIMIT: Final = WORKER_MEMORY_LIMIT
METRIC_WORKER_LAG: Final = "dask.worker.event_loop.lag"
METRIC_SCHEDULER_LAG: Final = "dask.scheduler.event_loop.lag"
METRIC_TRANSFERRED: Final = "dask.cluster.transfer.io"
METRIC_SPILLED: Final = "dask.cluster.spill.io"
METRIC_FACTS: Final = "scalable.recorder.facts"
METRIC_FACTS_DROPPED: Final = "scalable.recorder.facts.dropped"
METRIC_ERRORS: Final = "scalable.recorder.errors"
METRIC_LAG: Final = "scalable.recorder.lag"
METRIC_SUMMARIZED: Final = "scalable.export.spans.summarized"
METRIC_EXPORTED: Final = "scalable.export.items"
METRIC_EXPORT_FAILURES: Final = "scalable.export.failures"
METRIC_EXPORT_QUEUE: Final = "scalable.export.queue.size"

#: Why time was thrown away: retry, worker-lost, recomputed, cancelled.
WASTE_REASON: Final = "dask.waste.reason"
#: Of bytes read from and written to disk; OpenTelemetry's own name for it.
DISK_DIRECTION: Final = "disk.io.direction"
#: traces, metrics, logs.
SIGNAL: Final = "scalable.signal"
#: What became of exported items: sent, failed, dropped.
OUTCOME: Final = "scalable.export.outcome"
#: The task name of everything beyond the number of names told apart.
OTHER_NAMES: Final = "other"

# -- events and spans ---------------------------------------------------------------------------

EVENT_TASK: Final = "dask.task.state_change"
EVENT_WORKER: Final = "dask.worker.state_change"
EVENT_FAILURE: Final = "exception"

EVENT_RUN: Final = "scalable.run.started"
EVENT_WORKER_PAUSED: Final = "dask.worker.paused"
EVENT_WORKER_RESUMED: Final = "dask.worker.resumed"
EVENT_WORKER_SPILLED: Final = "dask.worker.spilled"
EVENT_WORKER_LOST: Final = "dask.worker.lost"
EVENT_TASK_RETRY: Final = "dask.task.retry"

SPAN_RUN: Final = "run {project}"
SPAN_SUBMIT: Final = "submit {name}"
SPAN_WORKER: Final = "worker {name}"
SPAN_PHASE: Final = "{phase}"
SPAN_ROLLUP: Final = "{name} (others)"
SPAN_RUNNING: Final = "{name} (running)"
KIND_SUBMIT: Final = SpanKind.PRODUCER

#: Bytes in the contract's unit of memory.
GIGABYTE: Final = 1e9

_TASK_FIELDS: Final = {
    TASK_KEY: "task_id",
    TASK_NAME: "task_name",
    TASK_STATE: "state",
    TASK_ATTEMPT: "attempt",
    FUNCTION_NAME: "function_name",
    WORKER_ADDRESS: "worker",
    WORKER_NAME: "worker_id",
    TASK_DURATION: "duration_s",
    TASK_QUEUED: "queue_s",
    TASK_TRANSFER: "transfer_s",
    SPAN_STARTED: "phases_start",
    TASK_CPU: "cpu_s",
    TASK_NBYTES: "nbytes",
    TASK_RESULT_TYPE: "result_type",
    TASK_DEPENDENCIES: "dependencies",
    TASK_DEPENDENCY_COUNT: "dependency_count",
    ERROR_TYPE: "error_type",
    EXCEPTION_MESSAGE: "error_message",
    TASK_BLAME: "blame",
    TASK_RECOMPUTED: "recomputed",
    TASK_REOPENS: "reopens",
    TASK_KNOWN_BEFORE: "known_before",
}

_WORKER_FIELDS: Final = {
    WORKER_NAME: "worker_id",
    WORKER_ADDRESS: "worker",
    WORKER_STATE: "state",
    PROVIDER: "provider",
    HOST_NAME: "details.host",
    PROCESS_PID: "details.pid",
    WORKER_NTHREADS: "details.nthreads",
    WORKER_MEMORY_LIMIT: "details.memory_limit_bytes",
    WORKER_NANNY: "details.nanny",
    WORKER_REASON: "details.reason",
    WORKER_TASKS_RUNNING: "details.tasks_running",
    WORKER_TASKS_RECOMPUTED: "details.tasks_recomputed",
    WORKER_MEMORY: "details.memory_bytes",
    WORKER_SPILLED: "details.spilled_bytes",
    EXIT_CODE: "details.exit_code",
    PROCESS_SIGNAL: "details.signal",
    CAUSE: "details.cause",
}

_FAILURE_FIELDS: Final = {
    EXCEPTION_TYPE: "failure_class",
    EXCEPTION_MESSAGE: "message",
    TASK_KEY: "task_id",
    PROVIDER: "provider",
    PHASE: "details.phase",
    FAILED_TASK: "details.task_id",
    WORKER_NAME: "details.worker_id",
    WORKER_ADDRESS: "details.worker",
    TASK_ATTEMPT: "details.attempt",
    TASK_WILL_RETRY: "details.will_retry",
    EXCEPTION_STACKTRACE: "details.traceback",
    WORKER_REASON: "details.reason",
    CAUSE: "details.cause",
    CAUSE_CONFIDENCE: "details.confidence",
    CAUSE_EVIDENCE: "details.evidence",
    NOT_KNOWN: "details.not_known",
    EXCEPTION_BASES: "details.bases",
    EXCEPTION_ERRNO: "details.errno",
    EXIT_CODE: "details.exit_code",
    PROCESS_SIGNAL: "details.signal",
    STDERR_TAIL: "details.stderr_tail",
    STDERR_PATH: "details.stderr_path",
    HOST_NAME: "details.host",
    PROCESS_PID: "details.pid",
    WORKER_TASKS: "details.tasks",
    WORKER_TASKS_RUNNING: "details.tasks_running",
    WORKER_TASKS_RECOMPUTED: "details.tasks_recomputed",
    WORKER_MEMORY: "details.memory_bytes",
    WORKER_MEMORY_PEAK: "details.memory_peak_bytes",
    WORKER_MEMORY_LIMIT: "details.memory_limit_bytes",
    WORKER_MEMORY_SAMPLES: "details.memory_samples",
    MEMORY_KILL: "details.memory_kill",
    OOM_KILLS_GROUP: "details.oom_kills_group",
    OOM_KILLS_HOST: "details.oom_kills_host",
    BATCH_SYSTEM: "details.batch_system",
    BATCH_JOB: "details.batch_job",
    TIME_LIMIT: "details.time_limit_s",
    TIME_LEFT: "details.time_left_s",
    TASK_DEATHS: "details.deaths",
    TASK_DEATHS_PRESENT: "details.deaths_present",
    TASK_DEATHS_ALONE: "details.deaths_alone",
}

_RESOURCE_FIELDS: Final = {
    ENTITY_TYPE: "entity_type",
    ENTITY_ID: "entity_id",
    PROVIDER: "provider",
    TASK_KEY: "entity_id",
    WORKER_ADDRESS: "worker",
    OBSERVED_CPU: "observed_cpu",
    OBSERVED_MEMORY: "observed_memory_gb",
}

#: How signals become records of the run directory.
RECORD_MAP: Final = RecordMap(
    route=RECORD,
    fields={
        "task": _TASK_FIELDS,
        "worker": _WORKER_FIELDS,
        "failure": _FAILURE_FIELDS,
        "resource": _RESOURCE_FIELDS,
    },
    constants={"resource": {"entity_type": "task"}},
    metrics={
        METRIC_WORKER_CPU: ("observed_cpu", 1.0),
        METRIC_WORKER_MEMORY: ("observed_memory_gb", 1 / GIGABYTE),
        METRIC_WORKER_MEMORY_LIMIT: ("observed_memory_limit_gb", 1 / GIGABYTE),
    },
)

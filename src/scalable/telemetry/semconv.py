"""All names: of attributes, events, metrics and spans, and which record field each becomes.

``dask.*`` is what Dask did, ``scalable.*`` what the run is; the rest are OpenTelemetry's semantic
conventions. There is none for workflows or tasks yet, hence the namespaces of our own.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.trace import SpanKind

from scalable_runs.otel.encode import RecordMap

SCOPE_NAME: Final = "scalable"

# -- what a signal is a record of ---------------------------------------------------------------

#: Event type of the record that a signal becomes in the run directory.
RECORD: Final = "scalable.record"

# -- the run ------------------------------------------------------------------------------------

#: The run's id: the name of its directory.
RUN_ID: Final = "scalable.run.id"
#: How the run ended: completed, failed, cancelled, lost.
RUN_STATUS: Final = "scalable.run.status"
#: Name of the project.
PROJECT: Final = "scalable.project.name"
#: Where a failure happened: task_execution, worker_lost, run.
PHASE: Final = "scalable.phase"
#: Kind of cluster: local, existing, slurm, …
PROVIDER: Final = "scalable.provider"

# -- tasks --------------------------------------------------------------------------------------

#: Dask's key of the task.
TASK_KEY: Final = "dask.task.key"
#: What tasks of one kind share: the key's beginning, or the name given.
TASK_NAME: Final = "dask.task.name"
#: State that the task has now: submitted, running, retried, lost, succeeded, failed,
#: cancelled; of the metric of tasks by state: waiting, running and the final ones.
TASK_STATE: Final = "dask.task.state"
#: How the attempt ended: success, failure, error, cancellation, rescheduled.
TASK_RESULT: Final = "dask.task.result"
#: Which attempt it was, from 1; 0 where none was ever made.
TASK_ATTEMPT: Final = "dask.task.attempt"
#: Keys of the tasks whose results it takes; at most 1,000.
TASK_DEPENDENCIES: Final = "dask.task.dependencies"
#: How many tasks' results it takes.
TASK_DEPENDENCY_COUNT: Final = "dask.task.dependency_count"
#: Seconds of execution alone, by the worker's clock.
TASK_DURATION: Final = "dask.task.duration"
#: Seconds from when the task could have run until it did.
TASK_QUEUED: Final = "dask.task.queue.duration"
#: Seconds of fetching what it needed from other workers.
TASK_TRANSFER: Final = "dask.task.transfer.duration"
#: Seconds of CPU of the task's own thread.
TASK_CPU: Final = "dask.task.cpu.time"
#: Size of the result in bytes, as Dask estimates it.
TASK_NBYTES: Final = "dask.task.result.size"
#: Type of the result.
TASK_RESULT_TYPE: Final = "dask.task.result.type"
#: Key of the task at fault, on a task that failed because that one did.
TASK_BLAME: Final = "dask.task.blame"
#: The attempt was made because a finished result was lost with its worker.
TASK_RECOMPUTED: Final = "dask.task.recomputed"
#: The attempt ended since its code asked Dask to run the task again (``Reschedule``).
TASK_RESCHEDULED: Final = "dask.task.rescheduled"
#: Final state that no longer holds, since the task runs again.
TASK_REOPENS: Final = "dask.task.reopens"
#: The scheduler had the task before this run asked for it.
TASK_KNOWN_BEFORE: Final = "dask.task.known_before"
#: The task runs again after this failure.
TASK_WILL_RETRY: Final = "dask.task.will_retry"
#: The key once more: a failure record names it beside the message and in the details.
FAILED_TASK: Final = "scalable.failure.task"
#: Graphs that a submission stands for.
GRAPH_COUNT: Final = "dask.graph.count"

#: Class of the exception, KilledWorker or WorkerLost.
ERROR_TYPE: Final = "error.type"
#: Class of the exception.
EXCEPTION_TYPE: Final = "exception.type"
#: What the exception says; secrets are redacted.
EXCEPTION_MESSAGE: Final = "exception.message"
#: The traceback; secrets are redacted.
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
#: Name of the function, where it is not what the task's name says.
FUNCTION_NAME: Final = "code.function.name"

# -- workers ------------------------------------------------------------------------------------

#: Address of the worker.
WORKER_ADDRESS: Final = "dask.worker.address"
#: Name of the worker.
WORKER_NAME: Final = "dask.worker.name"
#: What became of a worker: launched, ready, removed, lost; of the metric of workers by
#: state: running, paused, closing.
WORKER_STATE: Final = "dask.worker.state"
#: Threads that run tasks.
WORKER_NTHREADS: Final = "dask.worker.nthreads"
#: Bytes that the worker may use.
WORKER_MEMORY_LIMIT: Final = "dask.worker.memory.limit"
#: Bytes that the worker's process used when it was last seen.
WORKER_MEMORY: Final = "dask.worker.memory.last"
#: Address of the worker's nanny, if it has one.
WORKER_NANNY: Final = "dask.worker.nanny"
#: Why the worker went away.
WORKER_REASON: Final = "dask.worker.reason"
#: Tasks that ran on the worker when it went away, or anywhere when the scheduler did.
WORKER_TASKS_RUNNING: Final = "dask.worker.tasks_running"
#: Finished tasks that had to be computed again because it went away.
WORKER_TASKS_RECOMPUTED: Final = "dask.worker.tasks_recomputed"
#: Bytes of results that the worker had on disk.
WORKER_SPILLED: Final = "dask.worker.spilled"
#: Seconds from the worker's last heartbeat to its end.
WORKER_HEARTBEAT_AGE: Final = "dask.worker.heartbeat.age"
#: Seconds without a heartbeat after which Dask ended the worker.
WORKER_TTL: Final = "dask.worker.ttl"
#: Most bytes that the worker's process was seen to use.
WORKER_MEMORY_PEAK: Final = "dask.worker.memory.peak"
#: Its last dozen samples of memory: seconds since the epoch, bytes.
WORKER_MEMORY_SAMPLES: Final = "dask.worker.memory.samples"
#: Tasks that ran when the worker died, or when the scheduler went away.
WORKER_TASKS: Final = "dask.worker.tasks"
#: Tasks that had not begun when the scheduler went away.
TASKS_WAITING: Final = "dask.scheduler.tasks_waiting"
#: The nanny killed the worker for its memory.
MEMORY_KILL: Final = "dask.worker.memory.kill"
#: Host that the worker is on.
HOST_NAME: Final = "host.name"
#: Process of the worker.
PROCESS_PID: Final = "process.pid"
#: Tells one process of a service from the next: a worker, where user code recorded there.
SERVICE_INSTANCE: Final = "service.instance.id"
#: Exit code of the worker's process.
EXIT_CODE: Final = "process.exit.code"
#: Signal that ended the worker's process.
PROCESS_SIGNAL: Final = "process.exit.signal"
#: Last lines that the process wrote to stderr; secrets are redacted.
STDERR_TAIL: Final = "process.stderr.tail"
#: File that has all it wrote to stderr.
STDERR_PATH: Final = "process.stderr.path"
#: Processes that the kernel killed for memory in the worker's control group.
OOM_KILLS_GROUP: Final = "process.cgroup.oom_kills"
#: Processes that the kernel killed for memory on the host.
OOM_KILLS_HOST: Final = "host.oom_kills"
#: Batch system that the worker's job belongs to.
BATCH_SYSTEM: Final = "scalable.batch.system"
#: The job's id there.
BATCH_JOB: Final = "scalable.batch.job"
#: The job's time limit in seconds.
TIME_LIMIT: Final = "scalable.batch.time_limit"
#: Seconds to the end of the job's time.
TIME_LEFT: Final = "scalable.batch.time_left"

# -- why ----------------------------------------------------------------------------------------

#: Class of the cause, as `scalable diagnose` names it.
CAUSE: Final = "scalable.cause"
#: How certain the cause is.
CAUSE_CONFIDENCE: Final = "scalable.cause.confidence"
#: What the cause was judged by.
CAUSE_EVIDENCE: Final = "scalable.cause.evidence"
#: What nobody could tell.
NOT_KNOWN: Final = "scalable.not_known"
#: Classes that the exception's class derives from.
EXCEPTION_BASES: Final = "scalable.exception.bases"
#: The number of an operating system's error.
EXCEPTION_ERRNO: Final = "scalable.exception.errno"
#: Of a task: the deaths of workers that it was present at.
TASK_DEATHS: Final = "dask.task.deaths"
#: How many these are.
TASK_DEATHS_PRESENT: Final = "dask.task.deaths.present"
#: How many of them while it ran alone.
TASK_DEATHS_ALONE: Final = "dask.task.deaths.alone"

# -- what was asked for ---------------------------------------------------------------------------

#: Component of the manifest that the task belongs to.
COMPONENT: Final = "scalable.component"
#: What `tag=` said: a component, or one of its tags.
TAG: Final = "scalable.tag"
#: Workers asked for.
REQUESTED_WORKERS: Final = "scalable.requested.workers"
#: Cores asked for.
REQUESTED_CPUS: Final = "scalable.requested.cpus"
#: Memory asked for.
REQUESTED_MEMORY: Final = "scalable.requested.memory"
#: Time asked for of the batch system.
REQUESTED_WALLTIME: Final = "scalable.requested.walltime"

# -- events of the user's -------------------------------------------------------------------------

#: What may come with an artifact, a cost or a metric.
METADATA: Final = "scalable.metadata"
#: Whether an artifact was put or got.
STAGE: Final = "scalable.artifact.stage"
#: Name of an artifact.
ARTIFACT_NAME: Final = "scalable.artifact.name"
#: Where the artifact is.
ARTIFACT_LOCATION: Final = "scalable.artifact.location"
#: What kind of artifact it is.
ARTIFACT_KIND: Final = "scalable.artifact.kind"
#: Its size in bytes.
ARTIFACT_SIZE: Final = "scalable.artifact.size"
#: SHA-256 of the whole file, as `sha256:` and hexadecimal digits.
ARTIFACT_DIGEST: Final = "scalable.artifact.digest"
#: Function whose result was looked for.
CACHE_FUNCTION: Final = "scalable.cache.function"
#: Digest of function and arguments.
CACHE_KEY: Final = "scalable.cache.key"
#: The result was there.
CACHE_HIT: Final = "scalable.cache.hit"
#: Seconds that the look-up took.
CACHE_DURATION: Final = "scalable.cache.duration"
#: Size of the result in bytes.
CACHE_SIZE: Final = "scalable.cache.size"
#: Region that prices are of.
COST_REGION: Final = "scalable.cost.region"
#: Currency of the prices.
COST_CURRENCY: Final = "scalable.cost.currency"
#: Cost an hour.
COST_HOURLY: Final = "scalable.cost.total_hourly"
#: Cost a month.
COST_MONTHLY: Final = "scalable.cost.total_monthly"
#: What the sum is made of.
COST_ITEMS: Final = "scalable.cost.line_items"

#: Told by the program or by a task: an artifact, a look-up in the cache, a cost.
EVENT_USER: Final = {
    "artifact": "scalable.artifact",
    "cache": "scalable.cache.lookup",
    "cost": "scalable.cost",
}

# -- samples ------------------------------------------------------------------------------------

#: What a sample is of: worker, task.
ENTITY_TYPE: Final = "scalable.entity.type"
#: Address of the worker, or key of the task.
ENTITY_ID: Final = "scalable.entity.id"
#: Cores in use.
OBSERVED_CPU: Final = "scalable.observed.cpu"
#: Memory in use, in 10⁹ bytes.
OBSERVED_MEMORY: Final = "scalable.observed.memory_gb"

# -- spans over OTLP alone ----------------------------------------------------------------------

#: Links to attempts whose own spans were left out.
TASK_LINKS_LEFT_OUT: Final = "dask.task.links.left_out"
#: transfer, disk-read, deserialize, …
PHASE_NAME: Final = "dask.phase.name"
#: Seconds of the phase.
PHASE_DURATION: Final = "dask.phase.duration"
#: Single transfers (or reads) that a phase is made of.
PHASE_COUNT: Final = "dask.phase.count"
#: When a span began, where that was before its task's own code did: with its phases.
SPAN_STARTED: Final = "dask.task.phases.start"
#: Key of the task that runs, on the span that stands for it until it ends.
RUNNING_KEY: Final = "dask.running.key"
#: Span id of the attempt that a span of something running stands for.
RUNNING_SPAN: Final = "dask.task.span_id"
#: Attempts that a rollup span stands for.
ROLLUP_COUNT: Final = "dask.rollup.count"
#: Of these, attempts that failed.
ROLLUP_FAILED: Final = "dask.rollup.failed"
#: Sum of their durations in seconds.
ROLLUP_SUM: Final = "dask.rollup.duration.sum"
#: Shortest of them in seconds.
ROLLUP_MIN: Final = "dask.rollup.duration.min"
#: Longest of them in seconds.
ROLLUP_MAX: Final = "dask.rollup.duration.max"
#: Upper bounds of the buckets of their durations, in seconds.
ROLLUP_BOUNDS: Final = "dask.rollup.duration.bounds"
#: Attempts in each bucket; one more bucket than bounds.
ROLLUP_BUCKETS: Final = "dask.rollup.duration.bucket_counts"
#: On the run's root: attempts that were sent as spans of their own.
SPANS_SENT: Final = "scalable.spans.sent"
#: On the run's root: attempts that rollup spans stand for.
SPANS_SUMMARIZED: Final = "scalable.spans.summarized"
#: On the run's root: attempts of traces that the sampler left out.
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

#: A task was submitted, runs, was retried, was lost, succeeded, failed, was cancelled.
EVENT_TASK: Final = "dask.task.state_change"
#: A worker was launched, is ready, was removed, was lost.
EVENT_WORKER: Final = "dask.worker.state_change"
#: An attempt raised, or a worker was lost: on the attempt's span, or a log record.
EVENT_FAILURE: Final = "exception"

#: The recording began; sent over OTLP alone, as the root span comes at the end.
EVENT_RUN: Final = "scalable.run.started"
#: On a worker's span: it takes no new tasks, its memory is full.
EVENT_WORKER_PAUSED: Final = "dask.worker.paused"
#: On a worker's span: it takes tasks again.
EVENT_WORKER_RESUMED: Final = "dask.worker.resumed"
#: On a worker's span: it moved results to disk.
EVENT_WORKER_SPILLED: Final = "dask.worker.spilled"
#: On spans of a worker and of attempts there: the worker was lost.
EVENT_WORKER_LOST: Final = "dask.worker.lost"
#: On an attempt's span: the task will run again.
EVENT_TASK_RETRY: Final = "dask.task.retry"

#: INTERNAL. The whole run; the root of its trace.
SPAN_RUN: Final = "run {project}"
#: PRODUCER. One or more graphs sent by the client; child of the caller's span, or the root
#: of a trace of its own that is linked to the run.
SPAN_SUBMIT: Final = "submit {name}"
#: INTERNAL. A worker from its first to its last sign; child of the run.
SPAN_WORKER: Final = "worker {name}"
#: INTERNAL. transfer, disk-read, deserialize …, where it took a noticeable share; child of
#: the attempt.
SPAN_PHASE: Final = "{phase}"
#: INTERNAL. All attempts of one name beyond the span budget, with a histogram of their
#: durations; child of the submission.
SPAN_ROLLUP: Final = "{name} (others)"
#: INTERNAL. An attempt that runs for long, shown before it ends; child of the submission.
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
    COMPONENT: "component",
    TAG: "tag",
    REQUESTED_WORKERS: "requested_workers",
    TASK_RECOMPUTED: "recomputed",
    TASK_RESCHEDULED: "rescheduled",
    TASK_REOPENS: "reopens",
    TASK_KNOWN_BEFORE: "known_before",
}

_WORKER_FIELDS: Final = {
    WORKER_NAME: "worker_id",
    WORKER_ADDRESS: "worker",
    WORKER_STATE: "state",
    PROVIDER: "provider",
    COMPONENT: "component",
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
    WORKER_HEARTBEAT_AGE: "details.heartbeat_age_s",
    WORKER_TTL: "details.worker_ttl_s",
    EXIT_CODE: "details.exit_code",
    PROCESS_SIGNAL: "details.signal",
    CAUSE: "details.cause",
}

_FAILURE_FIELDS: Final = {
    EXCEPTION_TYPE: "failure_class",
    EXCEPTION_MESSAGE: "message",
    TASK_KEY: "task_id",
    PROVIDER: "provider",
    COMPONENT: "component",
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
    TASKS_WAITING: "details.tasks_waiting",
    WORKER_TASKS_RUNNING: "details.tasks_running",
    WORKER_TASKS_RECOMPUTED: "details.tasks_recomputed",
    WORKER_MEMORY: "details.memory_bytes",
    WORKER_HEARTBEAT_AGE: "details.heartbeat_age_s",
    WORKER_TTL: "details.worker_ttl_s",
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
    COMPONENT: "component",
    REQUESTED_WORKERS: "requested_workers",
    REQUESTED_CPUS: "requested_cpus",
    REQUESTED_MEMORY: "requested_memory",
    REQUESTED_WALLTIME: "requested_walltime",
}

_USER_FIELDS: Final = {
    TASK_KEY: "task_id",
    TASK_NAME: "task_name",
    COMPONENT: "component",
    TAG: "tag",
    METADATA: "metadata",
}

_ARTIFACT_FIELDS: Final = {
    **_USER_FIELDS,
    ARTIFACT_NAME: "artifact_name",
    ARTIFACT_LOCATION: "location",
    ARTIFACT_KIND: "kind",
    ARTIFACT_SIZE: "size_bytes",
    ARTIFACT_DIGEST: "digest",
    STAGE: "stage",
}

_CACHE_FIELDS: Final = {
    **_USER_FIELDS,
    CACHE_FUNCTION: "function_name",
    CACHE_KEY: "key_digest",
    CACHE_HIT: "hit",
    CACHE_DURATION: "duration_s",
    CACHE_SIZE: "size_bytes",
}

_COST_FIELDS: Final = {
    **_USER_FIELDS,
    PROVIDER: "provider",
    COST_REGION: "region",
    COST_CURRENCY: "currency",
    COST_HOURLY: "total_hourly",
    COST_MONTHLY: "total_monthly",
    COST_ITEMS: "line_items",
}

#: Attribute of each field of the user's events, by type of event.
USER_ATTRIBUTES: Final = {
    event_type: {field: attribute for attribute, field in fields.items()}
    for event_type, fields in (
        ("artifact", _ARTIFACT_FIELDS),
        ("cache", _CACHE_FIELDS),
        ("cost", _COST_FIELDS),
    )
}

#: How signals become records of the run directory.
RECORD_MAP: Final = RecordMap(
    route=RECORD,
    fields={
        "task": _TASK_FIELDS,
        "worker": _WORKER_FIELDS,
        "failure": _FAILURE_FIELDS,
        "resource": _RESOURCE_FIELDS,
        "artifact": _ARTIFACT_FIELDS,
        "cache": _CACHE_FIELDS,
        "cost": _COST_FIELDS,
    },
    constants={"resource": {"entity_type": "task"}},
    metrics={
        METRIC_WORKER_CPU: ("observed_cpu", 1.0),
        METRIC_WORKER_MEMORY: ("observed_memory_gb", 1 / GIGABYTE),
        METRIC_WORKER_MEMORY_LIMIT: ("observed_memory_limit_gb", 1 / GIGABYTE),
    },
)

"""Names of attributes, events and spans, and the record field that each attribute becomes.

Metrics are in :mod:`scalable.telemetry.instruments`.

``dask.*`` is what Dask did, ``scalable.*`` what the run is; the rest are OpenTelemetry's semantic
conventions. There is none for workflows or tasks yet, hence the namespaces of our own.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.trace import SpanKind

from scalable_runs.fields import nested_fields
from scalable_runs.otel.record_map import RecordMap
from scalable_runs.schema import DECLARATION_OF, FILE_OF

SCOPE_NAME: Final = "scalable"

#: For each attribute that becomes a field of a record, the field's name.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {}


def _field(attribute: str, *fields: str) -> str:
    """Pair an attribute with the field that it becomes, which the schema describes.

    The field may be of the record or of its `details`; `task.state` is one of tasks alone.
    """
    _FIELDS[attribute] = fields
    return attribute


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
PHASE: Final = _field("scalable.phase", "phase")
PROVIDER: Final = _field("scalable.provider", "provider")

# -- tasks --------------------------------------------------------------------------------------

TASK_KEY: Final = _field("dask.task.key", "task_id", "entity_id")
TASK_NAME: Final = _field("dask.task.name", "task_name")
#: State that the task has now: submitted, running, retried, lost, succeeded, failed,
#: cancelled; of the metric of tasks by state: waiting, running and the final ones.
TASK_STATE: Final = _field("dask.task.state", "task.state")
#: How the attempt ended: success, failure, error, cancellation, rescheduled.
TASK_RESULT: Final = "dask.task.result"
TASK_ATTEMPT: Final = _field("dask.task.attempt", "attempt")
TASK_DEPENDENCIES: Final = _field("dask.task.dependencies", "dependencies")
TASK_DEPENDENCY_COUNT: Final = _field("dask.task.dependency_count", "dependency_count")
TASK_DURATION: Final = _field("dask.task.duration", "task.duration_s")
TASK_QUEUED: Final = _field("dask.task.queue.duration", "queue_s")
TASK_TRANSFER: Final = _field("dask.task.transfer.duration", "transfer_s")
TASK_CPU: Final = _field("dask.task.cpu.time", "cpu_s")
TASK_NBYTES: Final = _field("dask.task.result.size", "nbytes")
TASK_RESULT_TYPE: Final = _field("dask.task.result.type", "result_type")
TASK_BLAME: Final = _field("dask.task.blame", "blame")
TASK_RECOMPUTED: Final = _field("dask.task.recomputed", "recomputed")
TASK_RESCHEDULED: Final = _field("dask.task.rescheduled", "rescheduled")
TASK_REOPENS: Final = _field("dask.task.reopens", "reopens")
TASK_KNOWN_BEFORE: Final = _field("dask.task.known_before", "known_before")
TASK_WILL_RETRY: Final = _field("dask.task.will_retry", "will_retry")
#: The key again: a failure record has it in its details, too.
FAILED_TASK: Final = _field("scalable.failure.task", "failure.details.task_id")
#: Graphs of a submission.
GRAPH_COUNT: Final = "dask.graph.count"

#: Class of the exception, KilledWorker or WorkerLost.
ERROR_TYPE: Final = _field("error.type", "error_type")
#: Class of the exception.
EXCEPTION_TYPE: Final = _field("exception.type", "failure_class")
#: Message of the exception.
EXCEPTION_MESSAGE: Final = _field("exception.message", "error_message", "message")
EXCEPTION_STACKTRACE: Final = _field("exception.stacktrace", "traceback")
FUNCTION_NAME: Final = _field("code.function.name", "task.function_name")

# -- workers ------------------------------------------------------------------------------------

WORKER_ADDRESS: Final = _field("dask.worker.address", "worker")
WORKER_NAME: Final = _field("dask.worker.name", "worker_id")
#: What became of a worker: launched, ready, removed, lost; of the metric of workers by
#: state: running, paused, closing.
WORKER_STATE: Final = _field("dask.worker.state", "worker.state")
WORKER_NTHREADS: Final = _field("dask.worker.nthreads", "nthreads")
WORKER_MEMORY_LIMIT: Final = _field("dask.worker.memory.limit", "memory_limit_bytes")
WORKER_MEMORY: Final = _field("dask.worker.memory.last", "memory_bytes")
WORKER_NANNY: Final = _field("dask.worker.nanny", "nanny")
WORKER_REASON: Final = _field("dask.worker.reason", "reason")
WORKER_TASKS_RUNNING: Final = _field("dask.worker.tasks_running", "tasks_running")
WORKER_TASKS_RECOMPUTED: Final = _field("dask.worker.tasks_recomputed", "tasks_recomputed")
#: Bytes of results that the worker had on disk.
WORKER_SPILLED: Final = "dask.worker.spilled"
WORKER_HEARTBEAT_AGE: Final = _field("dask.worker.heartbeat.age", "heartbeat_age_s")
WORKER_TTL: Final = _field("dask.worker.ttl", "worker_ttl_s")
WORKER_MEMORY_PEAK: Final = _field("dask.worker.memory.peak", "memory_peak_bytes")
WORKER_MEMORY_SAMPLES: Final = _field("dask.worker.memory.samples", "memory_samples")
WORKER_TASKS: Final = _field("dask.worker.tasks", "tasks")
TASKS_WAITING: Final = _field("dask.scheduler.tasks_waiting", "tasks_waiting")
MEMORY_KILL: Final = _field("dask.worker.memory.kill", "memory_kill")
HOST_NAME: Final = _field("host.name", "host")
PROCESS_PID: Final = _field("process.pid", "pid")
#: Process of a service: the worker, for signals that user code recorded there.
SERVICE_INSTANCE: Final = "service.instance.id"
EXIT_CODE: Final = _field("process.exit.code", "exit_code")
PROCESS_SIGNAL: Final = _field("process.exit.signal", "signal")
STDERR_TAIL: Final = _field("process.stderr.tail", "stderr_tail")
STDERR_PATH: Final = _field("process.stderr.path", "stderr_path")
OOM_KILLS_GROUP: Final = _field("process.cgroup.oom_kills", "oom_kills_group")
OOM_KILLS_HOST: Final = _field("host.oom_kills", "oom_kills_host")
BATCH_SYSTEM: Final = _field("scalable.batch.system", "batch_system")
BATCH_JOB: Final = _field("scalable.batch.job", "batch_job")
TIME_LIMIT: Final = _field("scalable.batch.time_limit", "time_limit_s")
TIME_LEFT: Final = _field("scalable.batch.time_left", "time_left_s")

# -- why ----------------------------------------------------------------------------------------

CAUSE: Final = _field("scalable.cause", "cause")
CAUSE_CONFIDENCE: Final = _field("scalable.cause.confidence", "confidence")
CAUSE_EVIDENCE: Final = _field("scalable.cause.evidence", "evidence")
NOT_KNOWN: Final = _field("scalable.not_known", "not_known")
EXCEPTION_BASES: Final = _field("scalable.exception.bases", "bases")
EXCEPTION_ERRNO: Final = _field("scalable.exception.errno", "errno")
TASK_DEATHS: Final = _field("dask.task.deaths", "deaths")
TASK_DEATHS_PRESENT: Final = _field("dask.task.deaths.present", "deaths_present")
TASK_DEATHS_ALONE: Final = _field("dask.task.deaths.alone", "deaths_alone")

# -- what was asked for ---------------------------------------------------------------------------

COMPONENT: Final = _field("scalable.component", "component")
TAG: Final = _field("scalable.tag", "tag")
REQUESTED_WORKERS: Final = _field("scalable.requested.workers", "requested_workers")
REQUESTED_CPUS: Final = _field("scalable.requested.cpus", "requested_cpus")
REQUESTED_MEMORY: Final = _field("scalable.requested.memory", "requested_memory")
REQUESTED_WALLTIME: Final = _field("scalable.requested.walltime", "requested_walltime")

# -- events of the user's -------------------------------------------------------------------------

METADATA: Final = _field("scalable.metadata", "metadata")
STAGE: Final = _field("scalable.artifact.stage", "stage")
ARTIFACT_NAME: Final = _field("scalable.artifact.name", "artifact_name")
ARTIFACT_LOCATION: Final = _field("scalable.artifact.location", "location")
ARTIFACT_KIND: Final = _field("scalable.artifact.kind", "kind")
ARTIFACT_SIZE: Final = _field("scalable.artifact.size", "artifact.size_bytes")
ARTIFACT_DIGEST: Final = _field("scalable.artifact.digest", "digest")
CACHE_FUNCTION: Final = _field("scalable.cache.function", "cache.function_name")
CACHE_KEY: Final = _field("scalable.cache.key", "key_digest")
CACHE_HIT: Final = _field("scalable.cache.hit", "hit")
CACHE_DURATION: Final = _field("scalable.cache.duration", "cache.duration_s")
CACHE_SIZE: Final = _field("scalable.cache.size", "cache.size_bytes")
COST_REGION: Final = _field("scalable.cost.region", "region")
COST_CURRENCY: Final = _field("scalable.cost.currency", "currency")
COST_HOURLY: Final = _field("scalable.cost.total_hourly", "total_hourly")
COST_MONTHLY: Final = _field("scalable.cost.total_monthly", "total_monthly")
COST_ITEMS: Final = _field("scalable.cost.line_items", "line_items")

#: Recorded by the program or by a task: an artifact, a look-up in the cache, a cost.
EVENT_USER: Final = {
    "artifact": "scalable.artifact",
    "cache": "scalable.cache.lookup",
    "cost": "scalable.cost",
}

# -- samples ------------------------------------------------------------------------------------

ENTITY_TYPE: Final = _field("scalable.entity.type", "entity_type")
ENTITY_ID: Final = _field("scalable.entity.id", "entity_id")
#: Cores in use.
OBSERVED_CPU: Final = _field("scalable.observed.cpu", "observed_cpu")
OBSERVED_MEMORY: Final = _field("scalable.observed.memory_gb", "observed_memory_gb")

# -- spans over OTLP alone ----------------------------------------------------------------------

#: Links to attempts whose own spans were left out.
TASK_LINKS_LEFT_OUT: Final = "dask.task.links.left_out"
#: transfer, disk-read, deserialize, …
PHASE_NAME: Final = "dask.phase.name"
#: Seconds of the phase.
PHASE_DURATION: Final = "dask.phase.duration"
#: Single transfers (or reads) that a phase is made of.
PHASE_COUNT: Final = "dask.phase.count"
SPAN_STARTED: Final = _field("dask.task.phases.start", "phases_start")
#: Key of the running task, on the span that represents it until it ends.
RUNNING_KEY: Final = "dask.running.key"
#: Span id of the running attempt, on the span that represents it until it ends.
RUNNING_SPAN: Final = "dask.task.span_id"
#: Attempts that a rollup span represents.
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
#: On the run's root: attempts that rollup spans represent.
SPANS_SUMMARIZED: Final = "scalable.spans.summarized"
#: On the run's root: attempts of traces that the sampler left out.
SPANS_UNSAMPLED: Final = "scalable.spans.unsampled"
#: On the run's root: spans of user code that were left out, with their attempt or as too many.
SPANS_FOREIGN_LEFT_OUT: Final = "scalable.spans.user_left_out"
#: Bytes on disk, of an event.
SPILLED_SIZE: Final = "dask.worker.spilled.size"

# -- metrics (see instruments.py; these two become fields of records) -----------------------------

METRIC_WORKER_CPU: Final = "dask.worker.cpu.usage"
METRIC_WORKER_MEMORY: Final = "dask.worker.memory.usage"

#: Why execution time was wasted: retry, worker-lost, recomputed, cancelled.
WASTE_REASON: Final = "dask.waste.reason"
#: Direction of bytes to and from disk; a name of OpenTelemetry's conventions.
DISK_DIRECTION: Final = "disk.io.direction"
#: traces, metrics, logs.
SIGNAL: Final = "scalable.signal"
#: What became of exported items: sent, failed, dropped.
OUTCOME: Final = "scalable.export.outcome"
#: The task name for all names beyond the limit.
OTHER_NAMES: Final = "other"

# -- events and spans ---------------------------------------------------------------------------

#: A task changed its state: submitted, running, retried, lost, succeeded, failed, cancelled.
EVENT_TASK: Final = "dask.task.state_change"
#: A worker changed its state: launched, ready, removed, lost.
EVENT_WORKER: Final = "dask.worker.state_change"
#: An attempt raised, or a worker was lost: on the attempt's span, or a log record.
EVENT_FAILURE: Final = "exception"

#: The run began; sent over OTLP alone, as the root span is sent at the end.
EVENT_RUN: Final = "scalable.run.started"
#: On a worker's span: it accepts no new tasks, as its memory is full.
EVENT_WORKER_PAUSED: Final = "dask.worker.paused"
#: On a worker's span: it accepts tasks again.
EVENT_WORKER_RESUMED: Final = "dask.worker.resumed"
EVENT_WORKER_SPILLED: Final = _field("dask.worker.spilled", "spilled_bytes")
#: On spans of a worker and of attempts there: the worker was lost.
EVENT_WORKER_LOST: Final = "dask.worker.lost"
#: On an attempt's span: the task will run again.
EVENT_TASK_RETRY: Final = "dask.task.retry"

#: INTERNAL. The whole run; the root of its trace.
SPAN_RUN: Final = "run {project}"
#: PRODUCER. One or more graphs sent by the client; child of the caller's span, or the root
#: of a trace of its own that is linked to the run.
SPAN_SUBMIT: Final = "submit {name}"
#: INTERNAL. A worker, from its arrival to its end; child of the run.
SPAN_WORKER: Final = "worker {name}"
#: INTERNAL. transfer, disk-read, deserialize …, if it took a noticeable share; child of the
#: attempt.
SPAN_PHASE: Final = "{phase}"
#: INTERNAL. All attempts of one name beyond the span budget, with a histogram of their
#: durations; child of the submission.
SPAN_ROLLUP: Final = "{name} (others)"
#: INTERNAL. An attempt that runs for long, shown before it ends; child of the submission.
SPAN_RUNNING: Final = "{name} (running)"
KIND_SUBMIT: Final = SpanKind.PRODUCER

#: Bytes per unit of the fields `…_gb`.
GIGABYTE: Final = 1e9


def _record_fields(event_type: str) -> dict[str, str]:
    """Return the field that each attribute becomes in records of one event type."""
    fields = nested_fields(DECLARATION_OF[FILE_OF[event_type]])
    found: dict[str, str] = {}
    for attribute, names in _FIELDS.items():
        for name in names:
            name = name.removeprefix(f"{event_type}.")
            path = name if name in fields else f"details.{name}"
            if path in fields:
                found[attribute] = path
    return found


#: How signals become records of the run directory.
RECORD_MAP: Final = RecordMap(
    route=RECORD,
    fields={
        event_type: _record_fields(event_type)
        for event_type in ("task", "worker", "failure", "resource", "artifact", "cache", "cost")
    },
    constants={"resource": {"entity_type": "task"}},
    metrics={
        METRIC_WORKER_CPU: ("observed_cpu", 1.0),
        METRIC_WORKER_MEMORY: ("observed_memory_gb", 1 / GIGABYTE),
        WORKER_MEMORY_LIMIT: ("observed_memory_limit_gb", 1 / GIGABYTE),
    },
)

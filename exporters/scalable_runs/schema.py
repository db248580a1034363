"""The run directory's contract: files, event types, states, and every field once.

A field is declared with its kind (see :mod:`scalable_runs.fields`) and its meaning. From these
declarations follow the reader's checks, the types of records for type checkers, the tables of the
documentation, the columns of Parquet files, and what the redactor looks at.

Fields may be added; none is renamed or given another meaning without a new
:data:`SCHEMA_VERSION`.

For type checkers no field of a record is certain to be there: what is read may be damaged, and the
reader gives null for a value of a wrong type. Use ``record.get(…)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias, TypedDict

from scalable_runs.fields import (
    ALWAYS,
    FIXED,
    ONCE_A_TABLE,
    Amount,
    Anything,
    Bytes,
    Cores,
    Count,
    Counts,
    Flag,
    Gigabytes,
    HexId,
    Integer,
    Label,
    Number,
    Numbers,
    Prose,
    Seconds,
    SignedSeconds,
    Table,
    Text,
    Texts,
    Time,
    Unit,
    Word,
    anything,
    integer,
)

# -- names ----------------------------------------------------------------------------------------

#: Written into every record and into run.json.
SCHEMA_VERSION: Final = 1

TASKS: Final = "tasks.jsonl"
RESOURCES: Final = "resources.jsonl"
WORKERS: Final = "workers.jsonl"
FAILURES: Final = "failures.jsonl"
CACHE: Final = "cache.jsonl"
ARTIFACTS: Final = "artifacts.jsonl"
COST: Final = "cost.jsonl"

#: The journals that exist in every run, also when nothing happened.
JOURNALS: Final = (TASKS, RESOURCES, WORKERS, FAILURES, CACHE, ARTIFACTS, COST)

SPANS: Final = "spans.jsonl"
LOGS: Final = "logs.jsonl"
METRICS: Final = "metrics.jsonl"
GRAPHS: Final = "graphs.jsonl"
ENVIRONMENTS: Final = "environments.jsonl"
FUNCTIONS: Final = "functions.jsonl"

#: Journals that appear once there is something to write: signals that are no record of the seven,
#: and the sizes of submissions; what the processes run with, and the functions that ran.
SIGNALS: Final = (SPANS, LOGS, METRICS, GRAPHS, ENVIRONMENTS, FUNCTIONS)

MANIFEST: Final = "manifest.yaml"
PLAN: Final = "plan.json"
LOCK: Final = "manifest.lock"
RUN: Final = "run.json"
SUMMARY: Final = "summary.json"

#: What differs from the commit in the program's repositories, as `git diff` writes it.
CODE_PATCH: Final = "code.patch"

#: Outcomes of sending the logs of dead workers; see :mod:`scalable.crash_upload.uploads`.
UPLOADS: Final = "uploads.jsonl"

#: Made with O_EXCL by the one process that writes a run; see :mod:`scalable_runs.writer`.
OWNER: Final = "owner.json"

#: Folder of a run that several programs write: each writer has a folder of its own there, which has
#: the files of a run.
WRITERS: Final = "writers"

EventType: TypeAlias = Literal[
    "task",
    "worker",
    "resource",
    "failure",
    "cache",
    "artifact",
    "cost",
    "span",
    "log",
    "metric",
    "graph",
    "environment",
    "function",
    "upload",
]

#: The journal of each event type.
FILE_OF: Final[Mapping[str, str]] = {
    "task": TASKS,
    "resource": RESOURCES,
    "worker": WORKERS,
    "failure": FAILURES,
    "cache": CACHE,
    "artifact": ARTIFACTS,
    "cost": COST,
    "span": SPANS,
    "log": LOGS,
    "metric": METRICS,
    "graph": GRAPHS,
    "environment": ENVIRONMENTS,
    "function": FUNCTIONS,
}

TaskState: TypeAlias = Literal[
    "submitted", "running", "retried", "lost", "succeeded", "failed", "cancelled"
]
#: A task's last line is one of these once its run is closed.
FINAL_STATES: Final = frozenset({"succeeded", "failed", "cancelled"})
#: States that end an attempt, or a task that had none.
ENDS: Final = FINAL_STATES | {"retried", "lost"}

WorkerState: TypeAlias = Literal["launched", "ready", "lost", "removed"]

RunStatus: TypeAlias = Literal["running", "completed", "failed", "cancelled", "lost"]
RUN_STATUSES: Final = frozenset({"running", "completed", "failed", "cancelled", "lost"})

#: End of a packed run's name, after its id.
PACKED: Final = ".tar.zst"
#: A run id is a plain file name: no separator, no leading dot, limited in length.
RUN_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: The time that most run ids begin with.
RUN_ID_TIME: Final = re.compile(r"run-(\d{8}T\d{6})Z")

#: Characters of `error_message` kept in tasks.jsonl; failures.jsonl has the whole.
MAX_ERROR_MESSAGE: Final = 10_000
#: Dependencies listed on a `submitted` line; `dependency_count` has the number of all.
MAX_DEPENDENCIES: Final = 1_000


# -- records of the journals ----------------------------------------------------------------------


class AnyRecord(TypedDict, total=False):
    """Fields of every record."""

    # The reader checks these two itself, before the others.
    schema_version: Annotated[int, anything, FIXED, ALWAYS, "Version of this schema: 1."]
    event_type: Annotated[EventType, ALWAYS, "Type of the record."]
    run_id: Annotated[Text, ALWAYS, "The run's id: the name of its directory."]
    seq: Annotated[int, anything, FIXED, ALWAYS, "1, 2, 3 … in a journal: a gap is a loss."]
    writer: Annotated[Text, "Writer that `seq` belongs to, in a run with several writers."]
    timestamp: Annotated[Time, ALWAYS, "Time of the event: UTC, on the scheduler's clock."]
    trace_id: Annotated[HexId, "Trace of the span that the record belongs to."]
    span_id: Annotated[HexId, "Span that the record belongs to."]


class Placement(TypedDict, total=False):
    """What a task requested."""

    component: Annotated[Text, "Component of the manifest that the task belongs to."]
    requested_workers: Annotated[Count, "Requested workers."]


class SpanStatus(TypedDict, total=False):
    """Status of a span."""

    code: Annotated[Word, "`unset`, `ok` or `error`."]
    description: Annotated[Prose, "Why it is an error."]


class SpanEvent(TypedDict, total=False):
    """An event of a span."""

    name: Annotated[Text, "Name of the event."]
    timestamp: Annotated[Time, "When it happened."]
    attributes: Annotated[Table, "Its attributes."]


class SpanLink(TypedDict, total=False):
    """A link to another span."""

    trace_id: Annotated[HexId, "Trace of the other span."]
    span_id: Annotated[HexId, "The other span."]
    attributes: Annotated[Table, "Its attributes."]


class Parameter(TypedDict, total=False):
    """A value that a task was called with, or one that it returned."""

    name: Annotated[Text, "Name of the parameter; `*args` are one, `…` are further ones."]
    kind: Annotated[
        Word, "`json`: `value` is all of it; `object`: it is described; `metric`: a number."
    ]
    value: Annotated[Anything, "The value, or `[redacted]`."]
    description: Annotated[Prose, "What it is, or its beginning."]
    type: Annotated[Text, "Its class, unless that is one of JSON's types."]
    shape: Annotated[list[int], anything, "Lengths of the dimensions of an array or a table."]
    dtype: Annotated[Text, "Type of its items, or names and types of its columns."]
    length: Annotated[Count, "Number of its entries or characters."]
    size_bytes: Annotated[Bytes, "Size of its data."]
    digest: Annotated[Text, "SHA-256 of its data, of at most 1 MB."]
    catalog: Annotated[Text, "Name in the data catalog under which the value is kept, pickled."]


class TaskDetails(TypedDict, total=False):
    """What the code of a task wrote to the span of its attempt."""

    span_name: Annotated[Text, "Name that it gave the span."]
    status: Annotated[SpanStatus, "Status that it set; the span has it if the attempt succeeded."]
    attributes: Annotated[Table, "Attributes that it set, and entries of baggage."]
    events: Annotated[list[SpanEvent], "Events that it added."]
    links: Annotated[list[SpanLink], "Links that it added."]
    dropped: Annotated[dict[str, Count], "`attributes`, `events` and `links` beyond the limits."]


class TaskRecord(AnyRecord, Placement, total=False):
    """A change of the state of a task."""

    task_id: Annotated[Text, ALWAYS, "Dask's key of the task."]
    task_name: Annotated[
        Text, ALWAYS, "Name that tasks of one kind share: beginning of the key, or the given name."
    ]
    state: Annotated[TaskState, ALWAYS, "New state of the task."]
    attempt: Annotated[Count, ALWAYS, "Number of the attempt, from 1; 0 if there was none."]
    function_name: Annotated[Text, "The function, if it differs from the task's name."]
    tag: Annotated[Text, "Value of `tag=`: a component, or one of its tags."]
    worker: Annotated[Text, "Address of the worker."]
    worker_id: Annotated[Label, "Name of the worker."]
    duration_s: Annotated[Seconds, "Execution alone, on the worker's clock."]
    queue_s: Annotated[SignedSeconds, "From ready to running."]
    transfer_s: Annotated[Seconds, "Time to fetch the task's inputs from other workers."]
    disk_write_s: Annotated[
        Seconds, "Time to store the result after the attempt, if results were written to disk."
    ]
    phases_start: Annotated[Time, "Start of the first noticeable phase; see spans.jsonl."]
    cpu_s: Annotated[Seconds, "CPU time of the task's own thread."]
    nbytes: Annotated[Bytes, "Size of the result, as Dask estimates it."]
    result_type: Annotated[Text, "Type of the result."]
    dependencies: Annotated[Texts, "On `submitted`: keys of its dependencies, at most 1,000."]
    dependency_count: Annotated[Count, "On `submitted`: number of tasks it depends on."]
    error_type: Annotated[Text, "Class of the exception, `KilledWorker` or `WorkerLost`."]
    error_class: Annotated[Text, "`error_type` with its module, unless it is built in."]
    error_message: Annotated[Prose, "Message of the exception; 10,000 characters at most."]
    blame: Annotated[Text, "The `task_id` at fault, on a task that failed without running."]
    recomputed: Annotated[Flag, "The attempt was made because a result was lost with its worker."]
    rescheduled: Annotated[Flag, "The attempt raised Dask's `Reschedule`, which is not a failure."]
    reopens: Annotated[TaskState, "Final state that no longer holds: the task runs again."]
    known_before: Annotated[Flag, "On `submitted`: the scheduler had the task before this run."]
    parent_span_id: Annotated[HexId, "Parent of the attempt's span, on its last line."]
    input_parameters: Annotated[
        list[Parameter],
        "On its last line: what it was called with, if it failed or if that was asked for.",
    ]
    output_parameters: Annotated[
        list[Parameter],
        "What it returned, if asked for, and the last value of its metrics.",
    ]
    details: Annotated[TaskDetails, "What its code wrote to the attempt's span, on its last line."]


class Ending(TypedDict, total=False):
    """A worker's process and how it ended."""

    host: Annotated[Text, "Host that the worker is on."]
    pid: Annotated[Count, "Process of the worker."]
    memory_limit_bytes: Annotated[Bytes, "Memory that the worker may use."]
    reason: Annotated[Text, "Why the worker ended."]
    exit_code: Annotated[Integer, "Exit code of the process, or minus the signal's number."]
    signal: Annotated[Text, "Signal that ended the worker's process."]
    cause: Annotated[Word, "Class of the cause, as `scalable diagnose` names it."]
    tasks_running: Annotated[Count, "Tasks that ran on the lost worker, or the lost scheduler's."]
    tasks_recomputed: Annotated[Count, "Finished tasks whose result was lost with the worker."]
    memory_bytes: Annotated[Bytes, "Memory of the worker's process at its last sample."]
    heartbeat_age_s: Annotated[SignedSeconds, "From the worker's last heartbeat to its end."]
    worker_ttl_s: Annotated[Seconds, "Timeout of heartbeats, if Dask ended the worker for it."]


class WorkerDetails(Ending, total=False):
    """More about a worker."""

    nthreads: Annotated[Count, "Threads that run tasks."]
    nanny: Annotated[Text, "Address of the worker's nanny, if it has one."]
    spilled_bytes: Annotated[Bytes, "Maximum of results on disk for lack of memory."]


class WorkerRecord(AnyRecord, total=False):
    """A worker started or ended."""

    component: Annotated[Text, "Component of the manifest that the worker belongs to."]
    worker_id: Annotated[Label, "Name of the worker."]
    worker: Annotated[Text, "Address of the worker."]
    state: Annotated[WorkerState, "`removed` was requested, `lost` was not."]
    provider: Annotated[Text, "Kind of cluster: local, existing, slurm, …"]
    details: Annotated[WorkerDetails, "More about the worker."]


class ResourceRecord(AnyRecord, Placement, total=False):
    """CPU and memory of a worker or an attempt."""

    entity_type: Annotated[Word, ALWAYS, "`worker` or `task`."]
    entity_id: Annotated[Label, ALWAYS, "Address of the worker, or key of the task."]
    worker: Annotated[Text, "Address of the worker."]
    provider: Annotated[Text, "Kind of cluster: local, existing, slurm, …"]
    observed_cpu: Annotated[Cores, "Cores in use."]
    observed_memory_gb: Annotated[Gigabytes, "Memory in use, in 10⁹ bytes."]
    observed_memory_limit_gb: Annotated[Gigabytes, "Memory that the worker may use."]
    requested_cpus: Annotated[Amount, "Requested cores."]
    requested_memory: Annotated[Anything, "Requested memory, as in the manifest."]
    requested_walltime: Annotated[Anything, "Time requested from the batch system."]


class Death(TypedDict, total=False):
    """The death of a worker that ran a task."""

    worker: Annotated[Text, "Address of the worker."]
    worker_id: Annotated[Label, "Name of the worker."]
    cause: Annotated[Word, "Class of the cause, as `scalable diagnose` names it."]
    signal: Annotated[Text, "Signal that ended the worker's process."]
    exit_code: Annotated[Integer, "Exit code of the process, or minus the signal's number."]
    tasks_running: Annotated[Count, "Tasks that ran on the worker."]


class FailureDetails(Ending, total=False):
    """More about a failure."""

    phase: Annotated[
        Word,
        "Where the failure happened: `task_execution`, `worker_lost`, `scheduler_lost`, "
        "`session.start`, `run` (an exception ended the program's block), …",
    ]
    task_id: Annotated[Text, "Dask's key of the task."]
    worker: Annotated[Text, "Address of the worker."]
    worker_id: Annotated[Label, "Name of the worker."]
    attempt: Annotated[Count, "Number of the attempt."]
    will_retry: Annotated[Flag, "The task runs again after this failure."]
    traceback: Annotated[Prose, "The traceback."]
    input_parameters: Annotated[list[Parameter], "What the attempt was called with."]
    confidence: Annotated[Word, "How certain the cause is."]
    evidence: Annotated[Texts, "Why this is the cause."]
    not_known: Annotated[Texts, "What could not be found out."]
    bases: Annotated[Texts, "Classes that the exception's class inherits from."]
    errno: Annotated[Integer, "Number of an operating system's error."]
    stderr_tail: Annotated[Prose, "Last lines that the worker's process wrote to stderr."]
    stderr_path: Annotated[Text, "File with all that it wrote, `host:path` on another host."]
    tasks: Annotated[Texts, "Keys of the tasks that ran at that time, at most 100."]
    tasks_waiting: Annotated[Count, "Tasks that had not started when the scheduler was lost."]
    memory_peak_bytes: Annotated[Bytes, "Maximum observed memory of the worker's process."]
    memory_samples: Annotated[
        list[list[float]], anything, FIXED, "Last samples: seconds since the epoch, bytes."
    ]
    memory_kill: Annotated[Flag, "The nanny ended the worker for its memory."]
    oom_kills_group: Annotated[Count, "Processes in the worker's cgroup killed for memory."]
    oom_kills_host: Annotated[Count, "Processes on the host killed for memory."]
    batch_system: Annotated[Text, "Batch system that the worker's job belongs to."]
    batch_job: Annotated[Label, "Id of the worker's job in the batch system."]
    time_limit_s: Annotated[SignedSeconds, "Time limit of the job."]
    time_left_s: Annotated[SignedSeconds, "Time left to the end of the job."]
    deaths: Annotated[list[Death], "Workers that died running it, on `KilledWorker`."]
    deaths_present: Annotated[Count, "Number of `deaths`."]
    deaths_alone: Annotated[Count, "Number of them that happened while the task ran alone."]


class FailureRecord(AnyRecord, total=False):
    """A failed attempt, a lost worker or scheduler, or the program's own failure."""

    failure_class: Annotated[
        Text, ALWAYS, "Class of the exception, `KilledWorker`, `WorkerLost` or `SchedulerLost`."
    ]
    error_class: Annotated[Text, "`failure_class` with its module, unless it is built in."]
    message: Annotated[Prose, ALWAYS, "Message of the exception."]
    task_id: Annotated[Text, "Dask's key of the task."]
    provider: Annotated[Text, "Kind of cluster: local, existing, slurm, …"]
    component: Annotated[Text, "Component of the manifest that the task belongs to."]
    details: Annotated[FailureDetails, "More about the failure."]


class UserRecord(AnyRecord, total=False):
    """Recorded by the program or a task itself."""

    task_id: Annotated[Text, "Dask's key of the task."]
    task_name: Annotated[Text, "Name that tasks of one kind share."]
    component: Annotated[Text, "Component of the manifest that the task belongs to."]
    tag: Annotated[Text, "Value of `tag=`: a component, or one of its tags."]
    metadata: Annotated[Table, "Added by the program."]


class CacheRecord(UserRecord, total=False):
    """A look-up of a result in the cache."""

    function_name: Annotated[Text, "Function whose result was looked up."]
    key_digest: Annotated[Text, "Digest of function and arguments."]
    hit: Annotated[Flag, "The result was found."]
    duration_s: Annotated[Seconds, "Time to load the result, or to compute it."]
    size_bytes: Annotated[Bytes, "Size of the result."]
    function_identity: Annotated[
        Text, FIXED, "`sha256:` and the digest of the function's code, with what it calls."
    ]
    arguments_digest: Annotated[Text, FIXED, "Digest of all arguments."]
    arguments: Annotated[Table, FIXED, "Digest of each argument, by its name."]
    result_digest: Annotated[Text, FIXED, "Digest of the result."]
    reused_from: Annotated[Text, "Id of the run that computed the result that was found."]
    not_kept: Annotated[Text, "Why the result was not kept, where results are."]


class ArtifactRecord(UserRecord, total=False):
    """A file or another thing that the program made or used."""

    artifact_name: Annotated[Text, "Name of the artifact."]
    location: Annotated[Text, "Where the artifact is."]
    kind: Annotated[Text, "Kind of artifact."]
    size_bytes: Annotated[Bytes, "Size of the artifact."]
    digest: Annotated[Text, "SHA-256 of the whole file, as `sha256:` and hexadecimal digits."]
    stage: Annotated[Text, "Whether the artifact was written (`put`) or read (`get`)."]
    catalog: Annotated[Text, "Data catalog that the artifact was put into or read from."]
    version: Annotated[Text, "Version of the name in the catalog."]
    put_by: Annotated[Text, "Id of the run that put what was read into the catalog."]


class CostRecord(UserRecord, total=False):
    """A cost, recorded or estimated."""

    provider: Annotated[Text, "Kind of cluster: local, existing, slurm, …"]
    region: Annotated[Text, "Region of the prices."]
    currency: Annotated[Text, "Currency of the prices."]
    total_hourly: Annotated[Number, "Cost per hour."]
    total_monthly: Annotated[Number, "Cost per month."]
    line_items: Annotated[Anything, "Items of the cost."]


class Scope(TypedDict, total=False):
    """An instrumentation scope."""

    name: Annotated[Text, "Name of the instrumentation."]
    version: Annotated[Text, "Its version."]


class SignalRecord(AnyRecord, total=False):
    """A signal of OpenTelemetry that is not a record of another journal."""

    attributes: Annotated[Table, "Its attributes."]
    scope: Annotated[Scope, "Scope that recorded it."]
    resource: Annotated[Table, "Attributes of its resource, if this is not that of the run."]


class SpanRecord(SignalRecord, total=False):
    """A span that has ended."""

    parent_span_id: Annotated[HexId, "The span's parent."]
    name: Annotated[Text, "Name of the span."]
    kind: Annotated[Word, "`internal`, `server`, `client`, `producer` or `consumer`."]
    start_time: Annotated[Time, "Its start."]
    end_time: Annotated[Time, "Its end."]
    duration_s: Annotated[Seconds, "Time from its start to its end."]
    status: Annotated[SpanStatus, "Its status."]
    events: Annotated[list[SpanEvent], "Its events."]
    links: Annotated[list[SpanLink], "Its links."]
    dropped: Annotated[dict[str, Count], "`attributes`, `events` and `links` that the SDK dropped."]


class LogRecord(SignalRecord, total=False):
    """A log record or an event."""

    observed_timestamp: Annotated[Time, "Time of observation, if it differs from `timestamp`."]
    event_name: Annotated[Text, "Name of the event."]
    severity_number: Annotated[Integer, "Severity number of OpenTelemetry."]
    severity_text: Annotated[Text, "The name of the severity at its source."]
    body: Annotated[Anything, "The body."]


class MetricBuckets(TypedDict, total=False):
    """Buckets of an exponential histogram."""

    offset: Annotated[Integer, "Index of the first bucket."]
    bucket_counts: Annotated[Counts, "Values in each bucket."]


class MetricRecord(SignalRecord, total=False):
    """A point of a metric."""

    name: Annotated[Text, "Name of the metric."]
    kind: Annotated[Word, "`sum`, `gauge`, `histogram` or `exponential_histogram`."]
    unit: Annotated[Text, "Its unit, in UCUM."]
    temporality: Annotated[Word, "`cumulative` or `delta`."]
    monotonic: Annotated[Flag, "Of a sum: it only grows."]
    start_time: Annotated[Time, "Start of the count."]
    value: Annotated[Number, "Value of a sum or gauge."]
    count: Annotated[Count, "Of a histogram: number of values."]
    sum: Annotated[Number, "Of a histogram: sum of the values."]
    min: Annotated[Number, "Of a histogram: smallest value."]
    max: Annotated[Number, "Of a histogram: largest value."]
    bounds: Annotated[Numbers, "Of a histogram: upper bounds of its buckets."]
    bucket_counts: Annotated[Counts, "Values in each bucket; one more bucket than bounds."]
    scale: Annotated[Integer, "Of an exponential histogram: its scale."]
    zero_count: Annotated[Count, "Of an exponential histogram: values that are zero."]
    positive: Annotated[MetricBuckets, "Of an exponential histogram: positive values."]
    negative: Annotated[MetricBuckets, "Of an exponential histogram: negative values."]


class GraphRecord(AnyRecord, total=False):
    """How large the graphs of a submission are, once it is known; `span_id` is the submission's."""

    tasks: Annotated[Count, "Tasks that the scheduler did not have before."]
    layers: Annotated[Count, "Layers that these tasks are in; absent for single submits."]


class EnvironmentRecord(AnyRecord, total=False):
    """What a process runs with.

    `packages`, `conda_packages` and `origins` are on the first line with the same `digest`,
    `dask_config` is on the first with the same `dask_config_digest`. A line without `host` says
    what a worker has imported since.
    """

    process: Annotated[Word, ALWAYS, "`program`, `scheduler` or `worker`."]
    worker: Annotated[Text, "Address of the worker."]
    worker_id: Annotated[Label, "Name of the worker."]
    host: Annotated[Text, "Host of the process."]
    pid: Annotated[Count, "Its process id."]
    digest: Annotated[
        Text,
        "SHA-256 of Python and its packages with their origins, as `sha256:` and hexadecimal "
        "digits.",
    ]
    python: Annotated[Text, "Version of Python."]
    implementation: Annotated[Text, "Implementation of Python."]
    executable: Annotated[Text, "Path of the interpreter."]
    platform: Annotated[Text, "Operating system and processor."]
    cpu: Annotated[Table, "`model`, `count`, and `usable`: those that the process may use."]
    memory_bytes: Annotated[Bytes, "Memory of the host."]
    variables: Annotated[Table, "Environment variables of an allow-list."]
    container: Annotated[Table, "Container that the process is in."]
    batch_job: Annotated[Table, "Job of a batch system: `system`, `id`, `name`, `partition`, …"]
    differs: Annotated[
        Table,
        "Versions that are not the program's, by package, and of `python`: the process's and the "
        "program's, null where it is not installed.",
    ]
    imported: Annotated[Texts, "Those of `differs` that the process had imported by then."]
    packages: Annotated[Table, "Versions of all installed distributions, by name."]
    conda_packages: Annotated[Table, "Versions and builds of conda's packages, by name."]
    origins: Annotated[Table, "Where packages come from that no index provided, by name."]
    dask_config_digest: Annotated[Text, "SHA-256 of Dask's configuration."]
    dask_config: Annotated[Table, "Dask's configuration."]


class FunctionComponent(TypedDict, total=False):
    """One thing that a function is made of."""

    kind: Annotated[
        Word,
        "`source`: the function itself; `helper`, `class`, `decorator`, `constant`, `package`; "
        "`default`, `closure`: a value that it holds.",
    ]
    name: Annotated[Text, "Its full name."]
    digest: Annotated[Text, FIXED, "SHA-256 of its syntax, its value or its version."]
    detail: Annotated[Text, "File and line, the value if it is short, or the version."]
    source: Annotated[Prose, "Its source, of at most 48 kB for all of a function."]
    held: Annotated[Flag, "It is reached through an object, and not by names alone."]


class FunctionRecord(AnyRecord, total=False):
    """A function that tasks called, with what it calls; one line for each version."""

    task_name: Annotated[Text, "Name of the first task that called it."]
    task_id: Annotated[Text, "Dask's key of that task."]
    function_name: Annotated[Text, "Module and qualified name."]
    module: Annotated[Text, "Its module."]
    qualname: Annotated[Text, "Its qualified name."]
    file: Annotated[Text, "Its file, or a cell of a notebook, such as `In [12]`."]
    line: Annotated[Count, "Line of its first decorator, or of its `def`."]
    source: Annotated[Prose, "Its source, of at most 16 kB; absent if it is not known."]
    identity: Annotated[Text, FIXED, "`sha256:` and the digest of all components."]
    components: Annotated[list[FunctionComponent], "What it is made of, sorted."]
    not_covered: Annotated[Texts, "What of it cannot be seen, a text each."]
    worker: Annotated[Text, "Address of the worker that ran it first."]
    worker_id: Annotated[Label, "Name of this worker."]
    python: Annotated[Text, "Version of Python there."]


class UploadRecord(AnyRecord, total=False):
    """Outcome of sending the log of a lost worker."""

    outcome: Annotated[
        Word,
        "`uploaded`, `refused` (by the server), `failed` (all tries failed), `skipped` "
        "(empty, or sent already), `dropped` (too many were waiting) or `pending` (the run was "
        "closed first).",
    ]
    worker_id: Annotated[Label, "Name of the worker."]
    log: Annotated[Text, "The log's path within the run directory."]
    cause: Annotated[Word, "Class of the cause of the worker's death."]
    host: Annotated[Text, "Host that it was to be sent to."]
    tries: Annotated[Count, "Number of tries."]
    sha256: Annotated[Text, "SHA-256 of what was sent."]
    size: Annotated[Bytes, "Size of what was sent."]
    error: Annotated[Text, "Why it was not sent."]


#: Declaration of the records of each journal.
DECLARATION_OF: Final[Mapping[str, type[AnyRecord]]] = {
    TASKS: TaskRecord,
    WORKERS: WorkerRecord,
    RESOURCES: ResourceRecord,
    FAILURES: FailureRecord,
    CACHE: CacheRecord,
    ARTIFACTS: ArtifactRecord,
    COST: CostRecord,
    SPANS: SpanRecord,
    LOGS: LogRecord,
    METRICS: MetricRecord,
    GRAPHS: GraphRecord,
    ENVIRONMENTS: EnvironmentRecord,
    FUNCTIONS: FunctionRecord,
    UPLOADS: UploadRecord,
}

#: A record of any event type.
Record: TypeAlias = dict[str, Any]


# -- run.json -------------------------------------------------------------------------------------


class Recorder(TypedDict):
    """The process that a run belongs to: readers check whether it is alive."""

    host: Annotated[Text, "Host of the process that the run belongs to."]
    pid: Annotated[Count, "Its process id."]
    boot_id: Annotated[Text, FIXED, "The host's boot."]
    heartbeat_at: Annotated[Time, "Last sign of life of the recorder."]


class Restart(TypedDict):
    """The process that wrote the run died, and another one continued in new files."""

    at: Annotated[Time, "When its death was noticed."]
    gap_s: Annotated[Seconds, "Time until the other one continued."]


class RemoteCopy(TypedDict, total=False):
    """What the copy of the run in another place lacked when run.json was written."""

    missing_bytes: Annotated[Count, Unit("By"), "Bytes of lines that were not there."]
    errors: Annotated[Count, "Times that the place did not answer."]
    error: Annotated[Text, "Why, the last time."]


class Telemetry(TypedDict):
    """What the record lacks: counts by cause, and the recorder's own errors."""

    dropped: Annotated[dict[str, Count], "What could not be recorded."]
    errors: Annotated[
        dict[str, Count],
        "Internal errors; `unread:…` counts facts of other versions that could not be read.",
    ]
    uncertain: NotRequired[Annotated[dict[str, Count], "Lines of a failed sync, by file."]]
    unwatched_workers: NotRequired[Annotated[dict[str, Text], "Reasons by `worker_id`."]]
    graphs_unseen: NotRequired[
        Annotated[
            Count,
            "Graphs that the program sent and the scheduler did not accept: their tasks "
            "are not in the record.",
        ]
    ]
    restarts: NotRequired[Annotated[list[Restart], anything, "Restarts of the writer."]]
    usage_left_out: NotRequired[Annotated[Count, "Short attempts not in resources.jsonl."]]
    not_sent: NotRequired[Annotated[dict[str, Count], "What the collector did not get, by signal."]]
    sent: NotRequired[Annotated[dict[str, Count], "Those that a collector got."]]
    remote: NotRequired[
        Annotated[dict[str, RemoteCopy], anything, "Copies of the run, by their place."]
    ]


class JournalMark(TypedDict):
    """The synced part of one file."""

    bytes: Annotated[Count, Unit("By"), "Size of the synced part."]
    seq: Annotated[Count, "Its last `seq`."]
    crc32: Annotated[Count, "The CRC-32 of its bytes."]


class Environment(TypedDict, total=False):
    """Versions and host; programs may add to it."""

    python: Annotated[Anything, "Version of Python."]
    implementation: Annotated[Anything, "Implementation of Python."]
    platform: Annotated[Anything, "Operating system and processor."]
    host: Annotated[Anything, "Host of the program."]
    cpu_count: Annotated[Anything, "Processors of the host."]
    program: Annotated[Anything, "File name of the program."]
    command: Annotated[
        Anything,
        "How the program was started: `kind`, `argv` (of Python, without secrets), `cwd`, "
        "`executable`, `module`.",
    ]
    packages: Annotated[dict[str, Text], "Versions of the packages that record."]
    cpu: Annotated[Anything, "As in environments.jsonl."]
    memory_bytes: Annotated[Anything, Unit("By"), "Memory of the host."]
    batch_job: Annotated[Anything, "Job of a batch system that the program belongs to."]
    digest: Annotated[Anything, "Of the program's line in environments.jsonl."]
    resource: Annotated[Anything, "Attributes of the resource, in a run written by an SDK."]


class CodeState(TypedDict, total=False):
    """The state of a work tree of git, or of a directory with sources."""

    code_identifier: Annotated[
        Text | None, FIXED, "The commit, or `sha256:` and a digest of all sources; null: unknown."
    ]
    code_identifier_type: Annotated[Word, "`git` or `sha256`."]
    code_identifier_dependable: Annotated[
        Flag,
        "Whether the identifier says which code it was: nothing was changed, staged or untracked; "
        "or every source was read for the digest.",
    ]
    code_identifier_url: Annotated[Text, "URL of the remote repository, without credentials."]
    code_identifier_message: Annotated[Prose, "In words: what is known, and what is not and why."]
    branch: Annotated[Text, "The branch; absent if no branch is checked out."]
    describe: Annotated[Text, "The commit as `git describe --tags --always` names it."]
    staged: Annotated[Texts, "Files with staged changes: the first of them."]
    staged_count: Annotated[Count, "How many there are."]
    unstaged: Annotated[Texts, "Files with changes that are not staged: the first of them."]
    unstaged_count: Annotated[Count, "How many there are."]
    untracked: Annotated[Texts, "Files that git does not track or ignore: the first of them."]
    untracked_count: Annotated[Count, "How many there are."]


class Submodule(CodeState, total=False):
    """A submodule of a repository, with the fields of a repository."""

    path: Annotated[Text, "Where it is in the repository's work tree."]
    recorded_commit: Annotated[Text, FIXED, "The commit that the index of the repository names."]


class CodeIdentity(CodeState, total=False):
    """The version of the user's code in one place, soon after the start of the run."""

    root: Annotated[Text, "Root of the work tree; without git the program's directory."]
    directory: Annotated[Text, "Directory of the program, or of the manifest."]
    observed_at: Annotated[Time, "When it was looked up."]
    files_count: Annotated[Count, "Number of sources that a `sha256` covers."]
    submodules: Annotated[list[Submodule], "Its submodules."]
    submodules_count: Annotated[Count, "How many there are."]


class RunWriterState(TypedDict, total=False):
    """One of the programs that write a run together."""

    status: Annotated[RunStatus, "As of a run; `lost` if the program or its recorder was killed."]
    started_at: Annotated[Time, "When it joined the run."]
    finished_at: Annotated[Time | None, "When it left the run."]
    host: Annotated[Text | None, "Host of the program."]
    pid: Annotated[Count | None, "Its process id."]
    last_seen_at: Annotated[Time | None, "Its last sign of life."]
    root_span_id: Annotated[HexId, "The span above all that it recorded."]


class UserMetric(TypedDict, total=False):
    """The numbers that the program and its tasks recorded by one name."""

    last: Annotated[Number, "The value of the greatest step, or that which came last."]
    step: Annotated[Integer, "Its step, if it has one."]
    min: Annotated[Number, "The least."]
    min_step: Annotated[Integer, "Its step."]
    max: Annotated[Number, "The greatest."]
    max_step: Annotated[Integer, "Its step."]
    count: Annotated[Count, "Number of points."]
    unit: Annotated[Text, "Unit of the values."]


class RunDocument(TypedDict):
    """run.json: description and state of the run, and how much of each file is safely on disk."""

    schema_version: Annotated[Count, "Version of this schema: 1."]
    run_id: Annotated[Text, "The run's id: the name of its directory."]
    project_name: Annotated[Text, "Name of the project."]
    target_name: Annotated[Text, "Target of the manifest."]
    provider_name: Annotated[Text, "Kind of cluster: local, existing, slurm, …"]
    manifest_lock: Annotated[Text, FIXED, "`sha256:` and the digest of the canonical manifest."]
    source_manifest_path: Annotated[Text | None, "File of the manifest."]
    started_at: Annotated[Time, "Start of the run."]
    finished_at: Annotated[Time | None, "When the run was closed."]
    status: Annotated[
        RunStatus,
        "`lost` if the program's block ended well and the end of some task is unknown; a run "
        "with status `running` whose recorder has ended is read as `lost`, too.",
    ]
    trace_id: Annotated[HexId, "Trace of the run's root span."]
    retry_of: NotRequired[Annotated[Text, "Id of the run that this one repeats."]]
    kept: NotRequired[
        Annotated[
            Table,
            "What is kept of its tasks: `results_bytes` and `failed_bytes`, the largest of each, "
            "and the `directory` of results.",
        ]
    ]
    environment: Annotated[Environment, "Versions and host."]
    code_identities: Annotated[
        list[CodeIdentity],
        ONCE_A_TABLE,
        "Versions of the user's code; empty until they are known. A table in earlier versions.",
    ]
    recorder: NotRequired[Annotated[Recorder, "Process that the run belongs to."]]
    telemetry: NotRequired[Annotated[Telemetry, "What the record lacks."]]
    user_defined_metrics: NotRequired[
        Annotated[dict[str, UserMetric], anything, "Recorded by `record_metric`, by name; 200."]
    ]
    journal: NotRequired[Annotated[dict[str, JournalMark], anything, "Synced part of each file."]]
    root_span_id: NotRequired[
        Annotated[HexId, "The run's root span, or the writer's, if several programs write the run."]
    ]
    parent_span_id: NotRequired[Annotated[HexId, "The span that the root span is a child of."]]
    parent_flags: NotRequired[Annotated[Count, "Flags of that span."]]
    tracestate: NotRequired[Annotated[Text, "Trace state of that span."]]
    trace_flags: NotRequired[Annotated[Count, "Flags of the trace, besides the sampler's."]]
    writers: NotRequired[
        Annotated[
            dict[str, RunWriterState], anything, "The programs that write the run, if several may."
        ]
    ]
    merged: NotRequired[Annotated[Texts, "Writers whose records are in the plain files."]]


# -- owner.json -----------------------------------------------------------------------------------


class WriterProcess(TypedDict):
    """A process that writes a run for another one."""

    pid: Annotated[Count, "Its process id."]
    process_started: Annotated[Text, FIXED, "Its start time, as counted by the host."]


class Owner(WriterProcess):
    """owner.json: the process that the run belongs to."""

    host: Annotated[Text, "Host of the process that the run belongs to."]
    boot_id: Annotated[Text, FIXED, "The host's boot."]
    pid_namespace: Annotated[Text, FIXED, "Namespace of the process id."]
    created_at: Annotated[Time, "When the run was created."]
    writer: NotRequired[Annotated[WriterProcess, "Separate process that writes the run."]]


# -- summary.json ---------------------------------------------------------------------------------

#: A count; for a damaged journal it may be wrong, but is an integer.
Total: TypeAlias = Annotated[int, integer]
#: Counts by name.
Members: TypeAlias = dict[str, Total]


class SummaryCounts(TypedDict):
    """Counts."""

    task_events: Annotated[Total, "Records of tasks.jsonl."]
    resource_events: Annotated[Total, "Records of resources.jsonl."]
    worker_events: Annotated[Total, "Records of workers.jsonl."]
    failure_events: Annotated[Total, "Records of failures.jsonl."]
    cache_events: Annotated[Total, "Records of cache.jsonl."]
    artifact_events: Annotated[Total, "Records of artifacts.jsonl."]
    cost_events: Annotated[Total, "Records of cost.jsonl."]
    unusable_events: Annotated[Total, "Records that could not be used."]
    tasks: Annotated[Total, "Tasks."]
    tasks_submitted: Annotated[Total, "Tasks submitted to the scheduler."]
    tasks_succeeded: Annotated[Total, "Tasks whose final state is `succeeded`."]
    tasks_failed: Annotated[Total, "Tasks whose final state is `failed`."]
    tasks_cancelled: Annotated[Total, "Tasks whose final state is `cancelled`."]
    tasks_retried: Annotated[Total, "Attempts that raised and whose task ran again."]
    tasks_rescheduled: NotRequired[Annotated[Total, "Attempts that raised `Reschedule`."]]
    tasks_lost: Annotated[Total, "Attempts lost with their worker."]
    tasks_recomputed: Annotated[Total, "Attempts made again for a lost result."]
    tasks_recomputed_distinct: NotRequired[
        Annotated[Total | None, "Tasks computed again; null if too many."]
    ]
    tasks_running: Annotated[Total, "Tasks whose last line is `running`."]
    tasks_waiting: Annotated[Total, "Tasks that wait."]
    tasks_unknown: NotRequired[Annotated[Total, "Tasks without a final state."]]
    attempts: Annotated[Total, "Attempts that ended."]
    workers: Annotated[Total, "Workers."]
    workers_lost: Annotated[Total, "Times that a worker was lost."]


class Spread(TypedDict):
    """Some durations, in seconds; percentiles are within `relative_error`."""

    count: Annotated[Count, "Number."]
    total: Annotated[Seconds, "Their sum."]
    mean: Annotated[Seconds | None, "Their mean."]
    p50: Annotated[Seconds | None, "Their median."]
    p95: Annotated[Seconds | None, "Their 95th percentile."]
    max: Annotated[Seconds | None, "The longest."]


class NameSummary(TypedDict):
    """All tasks of one name."""

    count: Annotated[Total, "Tasks."]
    submitted: Annotated[Total, "Tasks submitted to the scheduler."]
    succeeded: Annotated[Total, "Tasks whose final state is `succeeded`."]
    failed: Annotated[Total, "Tasks whose final state is `failed`."]
    cancelled: Annotated[Total, "Tasks whose final state is `cancelled`."]
    retried: Annotated[Total, "Attempts that raised and whose task ran again."]
    rescheduled: NotRequired[Annotated[Total, "Attempts that raised `Reschedule`."]]
    lost: Annotated[Total, "Attempts lost with their worker."]
    recomputed: Annotated[Total, "Attempts made again for a lost result."]
    attempts: Annotated[Total, "Attempts that ended."]
    cut_short: NotRequired[Annotated[Total, "Attempts that ran and did not finish."]]
    cut_short_s: NotRequired[Annotated[Seconds, "Total time that these ran."]]
    duration: Annotated[Spread, "Execution times of the attempts."]
    queue: Annotated[Spread, "Time in the queue."]
    cpu_s: Annotated[Seconds, "CPU time of their threads."]
    transfer_s: Annotated[Seconds, "Time to fetch their inputs."]


class SlowAttempt(TypedDict):
    """One of the slowest attempts."""

    task_id: Annotated[Text, "Dask's key of the task."]
    task_name: NotRequired[Annotated[Text | None, "Name that tasks of one kind share."]]
    state: Annotated[Word, "How it ended."]
    attempt: NotRequired[Annotated[Count | None, "Number of the attempt."]]
    worker: NotRequired[Annotated[Text | None, "Address of the worker."]]
    writer: NotRequired[Annotated[Text, "Its writer, in a run with several writers."]]
    duration_s: Annotated[Seconds, "Execution alone."]
    queue_s: NotRequired[Annotated[SignedSeconds | None, "From ready to running."]]
    timestamp: NotRequired[Annotated[Text | None, FIXED, "Its end."]]


class Timing(TypedDict):
    """Durations."""

    wall_s: Annotated[Seconds | None, "Time from the start to the end of the run."]
    task_duration_count: NotRequired[Annotated[Total, "Attempts with a duration."]]
    task_duration_total_s: NotRequired[Annotated[Seconds, "Sum of the durations."]]
    task_duration_avg_s: NotRequired[Annotated[Seconds | None, "Their mean."]]
    cut_short_count: NotRequired[Annotated[Total, "Attempts that ran and did not finish."]]
    cut_short_total_s: NotRequired[Annotated[Seconds, "Total time that these ran."]]
    relative_error: NotRequired[Annotated[Amount, "Maximum error of the percentiles."]]
    tasks: Annotated[dict[str, NameSummary], "By task name."]
    slowest: Annotated[list[SlowAttempt], "The slowest attempts, the slowest first."]


class CacheSummary(TypedDict):
    """The cache."""

    hits: Annotated[Count, "Look-ups that found a result."]
    misses: Annotated[Count, "Look-ups that found none."]
    hit_ratio: NotRequired[Annotated[Amount | None, "Hits per look-up."]]


class WorkerSummary(TypedDict):
    """The workers at one address."""

    writer: NotRequired[Annotated[Text, "Its writer, in a run with several writers."]]
    worker: Annotated[Text | None, "Address of the worker."]
    worker_id: Annotated[Text | None, "Name of the worker."]
    host: Annotated[Text | None, "Host that the worker is on."]
    state: Annotated[Word | None, "Its last state."]
    reason: Annotated[Text | None, "Why it ended."]
    exit_code: Annotated[Integer | None, "Exit code of its process."]
    signal: Annotated[Text | None, "Signal that ended the worker's process."]
    lives: NotRequired[Annotated[Count, "How often it started."]]
    lost: Annotated[Count, "How often it was lost."]
    nthreads: Annotated[Count | None, "Threads that run tasks."]
    lifetime_s: Annotated[Seconds, "How long it ran."]
    busy_s: Annotated[Seconds, "Execution time of all attempts on it."]
    busy_ratio: Annotated[Amount | None, "Execution per second of its threads."]
    attempts: Annotated[Count, "Attempts that ended on it."]
    memory_gb_max: Annotated[Gigabytes | None, "Maximum observed memory."]
    memory_limit_gb: Annotated[Gigabytes | None, "Memory that it may use."]
    cpu_max: NotRequired[Annotated[Cores | None, "Maximum observed cores."]]


class Resources(TypedDict):
    """Requested and used resources."""

    requested_cpu_min: NotRequired[Annotated[Number | None, "Minimum of the requested cores."]]
    requested_cpu_max: NotRequired[Annotated[Number | None, "Maximum of the requested cores."]]
    requested_cpu_avg: NotRequired[Annotated[Number | None, "Mean of the requested cores."]]
    observed_memory_gb_max: Annotated[Gigabytes | None, "Maximum observed memory."]
    worker_seconds: NotRequired[Annotated[Seconds, "Sum of the workers' lifetimes."]]
    thread_seconds: Annotated[Seconds, "Sum of the lifetimes of their threads."]
    busy_seconds: Annotated[Seconds, "Execution of all attempts."]
    busy_ratio: Annotated[Amount | None, "Execution per second of the threads."]
    workers: Annotated[list[WorkerSummary], "By address."]


class ArgumentValue(TypedDict, total=False):
    """A value of an argument."""

    value: Annotated[Anything, "The value."]
    description: Annotated[Text, "What it is, where it is not given itself."]
    count: Annotated[Count, "Number of calls with it."]


class ArgumentSummary(TypedDict):
    """An argument of calls that failed."""

    name: Annotated[Text, "Name of the parameter."]
    count: Annotated[Count, "Number of calls that had it."]
    values: Annotated[list[ArgumentValue], "Its values, at most 50 different ones."]
    others: Annotated[Count, "Number of calls with further values."]
    min: NotRequired[Annotated[Number, "The least, if all are numbers."]]
    max: NotRequired[Annotated[Number, "The greatest, if all are numbers."]]


class FailureGroup(TypedDict):
    """Failures of one cause."""

    failure_class: Annotated[Text, "Class of the exception."]
    message: Annotated[Text, "Message of the first."]
    pattern: NotRequired[Annotated[Text, "Common part of their messages; numbers and ids are `#`."]]
    messages: NotRequired[Annotated[list[Any], anything, "Some messages, if they differ."]]
    count: Annotated[Count, "Number."]
    retried: Annotated[Count, "Failures after which the task ran again."]
    dependents_failed: Annotated[Count, "Tasks that failed without running, because of these."]
    phase: Annotated[Word | None, "Phase in which they happened."]
    cause: NotRequired[Annotated[Any, anything, "Class of the cause."]]
    task_names: Annotated[Members, "Failures by task name."]
    workers: Annotated[Members, "Failures by address of the worker."]
    first_at: Annotated[Text | None, FIXED, "Time of the first."]
    last_at: Annotated[Text | None, FIXED, "Time of the last."]
    sample_task_id: NotRequired[Annotated[Text | None, "One of the failed tasks."]]
    traceback: Annotated[Text | None, "The traceback of the first."]
    arguments: NotRequired[Annotated[list[ArgumentSummary], "What the attempts were called with."]]


class Failures(TypedDict):
    """Failures."""

    classes: Annotated[Members, "Failures by class of the exception."]
    groups: Annotated[list[FailureGroup], "By cause."]


class UnfinishedTask(TypedDict):
    """A task that ran when the record ends."""

    task_id: Annotated[Text, "Dask's key of the task."]
    task_name: Annotated[Text, "Name that tasks of one kind share."]
    attempt: Annotated[Count, "Number of the attempt."]
    worker: Annotated[Text | None, "Address of the worker."]
    writer: NotRequired[Annotated[Text, "Its writer, in a run with several writers."]]
    since: Annotated[Word, "Start of the attempt."]


class Unfinished(TypedDict):
    """Tasks without an end."""

    running: NotRequired[Annotated[Count, "Tasks that ran."]]
    waiting: NotRequired[Annotated[Count, "Tasks that waited."]]
    tasks: Annotated[list[UnfinishedTask], "Tasks that ran; some of many."]


class SummaryDocument(TypedDict):
    """summary.json: read as a whole or not at all, since it can be made from the journals."""

    schema_version: Annotated[Count, "Version of this schema: 1."]
    run: NotRequired[Annotated[dict[str, Any], anything, "run.json."]]
    last_at: Annotated[Text | None, FIXED, "Timestamp of the last record."]
    counts: Annotated[SummaryCounts, "Counts."]
    timing: Annotated[Timing, "Durations."]
    cache: Annotated[CacheSummary, "The cache."]
    resources: Annotated[Resources, "Requested and used resources."]
    cost: Annotated[Table, "Sums of cost.jsonl."]
    failures: Annotated[Failures, "Failures."]
    unfinished: Annotated[Unfinished, "Tasks without an end."]

"""Names of attributes, events and spans, and the field that each attribute becomes.

Generated from semconv/ by `make semconv`: change the YAML there, not this file.

Metrics are in :mod:`scalable.telemetry.instruments`. ``dask.*`` is what Dask did, ``scalable.*``
what the run is; the rest are OpenTelemetry's semantic conventions. There is none for workflows or
tasks yet, hence the namespaces of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind

#: Name of the scope of the run's own signals.
SCOPE_NAME: Final = "scalable"
#: Version of OpenTelemetry's semantic conventions that is followed.
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.40.0"
#: The task name for all names beyond a limit.
OTHER_NAMES: Final = "other"
#: The class of exception for all classes beyond a limit, as OpenTelemetry defines it.
OTHER_ERRORS: Final = "_OTHER"

# -- Run -----------------------------------------------------------------------------------------

#: The run's id: the name of its directory.
RUN_ID: Final = "scalable.run.id"
#: How the run ended.
RUN_STATUS: Final = "scalable.run.status"
#: Name of one of several programs that write a run together.
WRITER: Final = "scalable.run.writer"
#: Name of the project.
PROJECT: Final = "scalable.project.name"
#: Where the failure happened: `task_execution`, `worker_lost`, `scheduler_lost`, `session.start`,
#: `run` (an exception ended the program's block), …
PHASE: Final = "scalable.phase"
#: Kind of cluster: local, existing, slurm, …
PROVIDER: Final = "scalable.provider"
#: On the run's root: attempts that were sent as spans of their own.
SPANS_SENT: Final = "scalable.spans.sent"
#: On the run's root: attempts that rollup spans represent.
SPANS_SUMMARIZED: Final = "scalable.spans.summarized"
#: On the run's root: attempts of traces that the sampler left out.
SPANS_UNSAMPLED: Final = "scalable.spans.unsampled"
#: On the run's root: spans of user code that were left out, with their attempt or as too many.
SPANS_FOREIGN_LEFT_OUT: Final = "scalable.spans.user_left_out"
#: On the run's root: submissions of tasks, and layers of their graphs, that were left out with the
#: attempts above or below them.
SPANS_NESTED_LEFT_OUT: Final = "scalable.spans.nested_left_out"

# -- Task ----------------------------------------------------------------------------------------

#: Dask's key of the task.
TASK_KEY: Final = "dask.task.key"
#: Name that tasks of one kind share: beginning of the key, or the given name.
TASK_NAME: Final = "dask.task.name"
#: State that the task has now. `waiting` and `unknown` are of metrics alone; `submitted`, `retried`
#: and `lost` of events and spans.
TASK_STATE: Final = "dask.task.state"
#: How the attempt ended.
TASK_RESULT: Final = "dask.task.result"
#: Number of the attempt, from 1; 0 if there was none.
TASK_ATTEMPT: Final = "dask.task.attempt"
#: On `submitted`: keys of its dependencies, at most 1,000.
TASK_DEPENDENCIES: Final = "dask.task.dependencies"
#: On `submitted`: number of tasks it depends on.
TASK_DEPENDENCY_COUNT: Final = "dask.task.dependency_count"
#: Size of the result, as Dask estimates it. In bytes.
TASK_NBYTES: Final = "dask.task.return.size"
#: Type of the result.
TASK_RESULT_TYPE: Final = "dask.task.return.type"
#: Key of the task at fault, on a task that failed without running.
TASK_BLAME: Final = "dask.task.blame"
#: The attempt was made because a result was lost with its worker.
TASK_RECOMPUTED: Final = "dask.task.recomputed"
#: The attempt raised Dask's `Reschedule`, which is not a failure.
TASK_RESCHEDULED: Final = "dask.task.rescheduled"
#: Final state that no longer holds: the task runs again.
TASK_REOPENS: Final = "dask.task.reopens"
#: On `submitted`: the scheduler had the task before this run.
TASK_KNOWN_BEFORE: Final = "dask.task.known_before"
#: The task runs again after this failure.
TASK_WILL_RETRY: Final = "dask.task.will_retry"
#: An argument of the task's call, by the name of its parameter: its value, or a short description;
#: at most 20.
TASK_INPUT: Final = "dask.task.input"
#: A value that the task returned, or the last value of a metric that it recorded: itself, or a
#: short description; at most 20.
TASK_RETURNED: Final = "dask.task.returned"
#: Workers that died running it, on `KilledWorker`: a list of tables.
TASK_DEATHS: Final = "dask.task.deaths.details"
#: Number of workers that died running it, on `KilledWorker`.
TASK_DEATHS_PRESENT: Final = "dask.task.deaths.count"
#: Number of the deaths that happened while the task ran alone.
TASK_DEATHS_ALONE: Final = "dask.task.deaths.alone"
#: Links to attempts whose own spans were left out.
TASK_LINKS_LEFT_OUT: Final = "dask.task.links.left_out"

# -- Attempt -------------------------------------------------------------------------------------

#: Execution alone, on the worker's clock. In seconds.
TASK_DURATION: Final = "dask.attempt.duration"
#: From ready to running. In seconds.
TASK_QUEUED: Final = "dask.attempt.queue.duration"
#: Time to fetch the task's inputs from other workers. In seconds.
TASK_TRANSFER: Final = "dask.attempt.transfer.duration"
#: Time to store the result after the attempt, if results were written to disk. In seconds.
TASK_DISK_WRITE: Final = "dask.attempt.disk_write.duration"
#: CPU time of the task's own thread. In seconds.
TASK_CPU: Final = "dask.attempt.cpu.time"

# -- Submission ----------------------------------------------------------------------------------

#: Graphs of a submission.
GRAPH_COUNT: Final = "dask.graph.count"
#: Tasks of the graphs of a submission that the scheduler did not have before. Absent where their
#: number is not known for certain; in the run directory it is in graphs.jsonl.
GRAPH_TASKS: Final = "dask.graph.tasks"
#: Layers (Dask's task groups) that these tasks are in; absent for single submits.
GRAPH_LAYERS: Final = "dask.graph.layers"
#: What was called: `submit`, `map`, `compute`, `persist` or `get`.
SUBMIT_OPERATION: Final = "dask.submission.operation"
#: Key of the task whose code sent the graph; absent for graphs of the program.
SUBMIT_TASK: Final = "dask.submission.task"
#: Names of Dask's own spans (`distributed.span()`), outermost first.
DASK_SPAN_NAME: Final = "dask.span.name"
#: Ids of Dask's own spans, as its dashboard and its scheduler have them.
DASK_SPAN_ID: Final = "dask.span.id"
#: The output is that of a C library, of another process or of a thread without the task's context,
#: written while the worker ran this attempt alone.
OUTPUT_INFERRED: Final = "dask.output.inferred"
#: Characters of the attempt's output that were left out before this one.
OUTPUT_LEFT_OUT: Final = "dask.output.left_out"

# -- What was asked for --------------------------------------------------------------------------

#: Component of the manifest that the task belongs to.
COMPONENT: Final = "scalable.component"
#: Value of `tag=`: a component, or one of its tags.
TAG: Final = "scalable.tag"
#: Requested workers.
REQUESTED_WORKERS: Final = "scalable.requested.workers"
#: Requested cores.
REQUESTED_CPUS: Final = "scalable.requested.cpus"
#: Requested memory, as in the manifest.
REQUESTED_MEMORY: Final = "scalable.requested.memory"
#: Time requested from the batch system.
REQUESTED_WALLTIME: Final = "scalable.requested.walltime"

# -- Worker --------------------------------------------------------------------------------------

#: Address of the worker.
WORKER_ADDRESS: Final = "dask.worker.address"
#: Name of the worker.
WORKER_NAME: Final = "dask.worker.name"
#: What became of a worker, on events; its state now, on metrics (`running`, `paused`, `closing`).
WORKER_STATE: Final = "dask.worker.state"
#: Threads that run tasks.
WORKER_NTHREADS: Final = "dask.worker.nthreads"
#: Memory that the worker may use. In bytes.
WORKER_MEMORY_LIMIT: Final = "dask.worker.memory_limit"
#: Memory of the worker's process at its last sample. In bytes.
WORKER_MEMORY: Final = "dask.worker.memory.last"
#: Address of the worker's nanny, if it has one.
WORKER_NANNY: Final = "dask.worker.nanny"
#: Why the worker ended.
WORKER_REASON: Final = "dask.worker.reason"
#: Tasks that ran on the lost worker, or the lost scheduler's.
WORKER_TASKS_RUNNING: Final = "dask.worker.tasks_running"
#: Finished tasks whose result was lost with the worker.
WORKER_TASKS_RECOMPUTED: Final = "dask.worker.tasks_recomputed"
#: Results of the worker that were on disk for lack of memory. In bytes.
WORKER_SPILLED: Final = "dask.worker.spill.size"
#: From the worker's last heartbeat to its end. In seconds.
WORKER_HEARTBEAT_AGE: Final = "dask.worker.heartbeat.age"
#: Timeout of heartbeats, if Dask ended the worker for it. In seconds.
WORKER_TTL: Final = "dask.worker.ttl"
#: Maximum observed memory of the worker's process. In bytes.
WORKER_MEMORY_PEAK: Final = "dask.worker.memory.peak"
#: Last samples of its memory: pairs of seconds since the epoch and bytes.
WORKER_MEMORY_SAMPLES: Final = "dask.worker.memory.samples"
#: The nanny ended the worker for its memory.
MEMORY_KILL: Final = "dask.worker.memory.kill"
#: Keys of the tasks that ran at that time, at most 100.
WORKER_TASKS: Final = "dask.worker.tasks"
#: Signal that ended the worker's process.
PROCESS_SIGNAL: Final = "dask.worker.exit.signal"
#: Last lines that the worker's process wrote to stderr.
STDERR_TAIL: Final = "dask.worker.stderr.tail"
#: File with all that it wrote, `host:path` on another host.
STDERR_PATH: Final = "dask.worker.stderr.path"
#: Processes in the worker's cgroup killed for memory.
OOM_KILLS_GROUP: Final = "dask.worker.oom_kills.cgroup"
#: Processes on the host killed for memory.
OOM_KILLS_HOST: Final = "dask.worker.oom_kills.host"

# -- Scheduler -----------------------------------------------------------------------------------

#: Tasks that had not started when the scheduler was lost.
TASKS_WAITING: Final = "dask.scheduler.tasks_waiting"

# -- Batch system --------------------------------------------------------------------------------

#: Batch system that the worker's job belongs to.
BATCH_SYSTEM: Final = "scalable.batch.system"
#: Id of the worker's job in the batch system.
BATCH_JOB: Final = "scalable.batch.job"
#: Time limit of the job. In seconds.
TIME_LIMIT: Final = "scalable.batch.time_limit"
#: Time left to the end of the job. In seconds.
TIME_LEFT: Final = "scalable.batch.time_left"

# -- Why -----------------------------------------------------------------------------------------

#: Class of the cause, as `scalable diagnose` names it.
CAUSE: Final = "scalable.cause.name"
#: How certain the cause is.
CAUSE_CONFIDENCE: Final = "scalable.cause.confidence"
#: Why this is the cause.
CAUSE_EVIDENCE: Final = "scalable.cause.evidence"
#: What could not be found out.
NOT_KNOWN: Final = "scalable.not_known"
#: Classes that the exception's class inherits from.
EXCEPTION_BASES: Final = "scalable.exception.bases"
#: Number of an operating system's error.
EXCEPTION_ERRNO: Final = "scalable.exception.errno"

# -- Events of the user's ------------------------------------------------------------------------

#: Added by the program.
METADATA: Final = "scalable.metadata"
#: Whether the artifact was written (`put`) or read (`get`).
STAGE: Final = "scalable.artifact.stage"
#: Name of the artifact.
ARTIFACT_NAME: Final = "scalable.artifact.name"
#: Where the artifact is.
ARTIFACT_LOCATION: Final = "scalable.artifact.location"
#: Kind of artifact.
ARTIFACT_KIND: Final = "scalable.artifact.kind"
#: Size of the artifact. In bytes.
ARTIFACT_SIZE: Final = "scalable.artifact.size"
#: SHA-256 of the whole file, as `sha256:` and hexadecimal digits.
ARTIFACT_DIGEST: Final = "scalable.artifact.digest"
#: Data catalog that the artifact was put into or read from.
ARTIFACT_CATALOG: Final = "scalable.artifact.catalog"
#: Version of the name in the catalog.
ARTIFACT_VERSION: Final = "scalable.artifact.version"
#: Id of the run that put what was read into the catalog.
ARTIFACT_PUT_BY: Final = "scalable.artifact.put_by"
#: Function whose result was looked up.
CACHE_FUNCTION: Final = "scalable.cache.function"
#: Digest of function and arguments.
CACHE_KEY: Final = "scalable.cache.key"
#: The result was found.
CACHE_HIT: Final = "scalable.cache.hit"
#: Time to load the result, or to compute it. In seconds.
CACHE_DURATION: Final = "scalable.cache.duration"
#: Size of the result. In bytes.
CACHE_SIZE: Final = "scalable.cache.size"
#: `sha256:` and the digest of the function's code, with what it calls.
CACHE_IDENTITY: Final = "scalable.cache.function_identity"
#: Digest of all arguments.
CACHE_ARGUMENTS_DIGEST: Final = "scalable.cache.arguments_digest"
#: Digest of the result.
CACHE_RESULT_DIGEST: Final = "scalable.cache.result_digest"
#: Id of the run that computed the result that was found.
CACHE_REUSED_FROM: Final = "scalable.cache.reused_from"
#: Why the result was not kept, where results are.
CACHE_NOT_KEPT: Final = "scalable.cache.not_kept"
#: Region of the prices.
COST_REGION: Final = "scalable.cost.region"
#: Currency of the prices.
COST_CURRENCY: Final = "scalable.cost.currency"
#: Cost per hour.
COST_HOURLY: Final = "scalable.cost.total_hourly"
#: Cost per month.
COST_MONTHLY: Final = "scalable.cost.total_monthly"
#: Items of the cost.
COST_ITEMS: Final = "scalable.cost.line_items"

# -- Phases --------------------------------------------------------------------------------------

#: What the attempt did.
PHASE_NAME: Final = "dask.phase.name"
#: Duration of the phase, as measured; its span ends with the attempt at the latest. In seconds.
PHASE_DURATION: Final = "dask.phase.duration"
#: Single transfers (or reads) that a phase is made of.
PHASE_COUNT: Final = "dask.phase.count"

# -- Running attempts ----------------------------------------------------------------------------

#: Key of the running task, on the span that represents it until it ends.
RUNNING_KEY: Final = "dask.running.key"
#: Span id of the running attempt, on the span that represents it until it ends.
RUNNING_SPAN: Final = "dask.task.span_id"

# -- Layers --------------------------------------------------------------------------------------

#: Dask's name of the group of tasks.
LAYER_NAME: Final = "dask.layer.name"
#: Tasks of the layer.
LAYER_TASKS: Final = "dask.layer.tasks.known"
#: Of the tasks, those that succeeded.
LAYER_SUCCEEDED: Final = "dask.layer.tasks.succeeded"
#: Of the tasks, those that failed.
LAYER_FAILED: Final = "dask.layer.tasks.failed"
#: Of the tasks, those that were cancelled.
LAYER_CANCELLED: Final = "dask.layer.tasks.cancelled"
#: Attempts of the layer's tasks that have ended.
LAYER_ATTEMPTS: Final = "dask.layer.attempts"
#: Of the attempts, those that raised and whose task ran again.
LAYER_RETRIED: Final = "dask.layer.retried"
#: Of the attempts, those that ended with their worker and whose task ran again.
LAYER_LOST: Final = "dask.layer.lost"

# -- Blocks of Dask's `span()` -------------------------------------------------------------------

#: Blocks that the span represents: more than one for those that share it.
DASK_SPAN_BLOCKS: Final = "dask.span.blocks"
#: Tasks that were submitted in the block. This and the other counts include the blocks within it,
#: and are absent where some are unknown.
DASK_SPAN_TASKS: Final = "dask.span.tasks.known"
#: Of the tasks, those that succeeded.
DASK_SPAN_SUCCEEDED: Final = "dask.span.tasks.succeeded"
#: Of the tasks, those that failed.
DASK_SPAN_FAILED: Final = "dask.span.tasks.failed"
#: Of the tasks, those that were cancelled.
DASK_SPAN_CANCELLED: Final = "dask.span.tasks.cancelled"
#: Attempts of the block's tasks that have ended.
DASK_SPAN_ATTEMPTS: Final = "dask.span.attempts"
#: Of the attempts, those that raised and whose task ran again.
DASK_SPAN_RETRIED: Final = "dask.span.retried"
#: Of the attempts, those that ended with their worker and whose task ran again.
DASK_SPAN_LOST: Final = "dask.span.lost"

# -- Rollups -------------------------------------------------------------------------------------

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

# -- Stand-ins -----------------------------------------------------------------------------------

#: The span takes the place of one that was not received: an attempt whose end is unknown, a span
#: that was open when its worker was lost, a submission of a program that was killed.
STAND_IN: Final = "scalable.stand_in"

# -- Metrics -------------------------------------------------------------------------------------

#: Why execution time was wasted.
WASTE_REASON: Final = "dask.waste.reason"
#: Kind of signal.
SIGNAL: Final = "scalable.signal"

# -- OpenTelemetry -------------------------------------------------------------------------------

#: Class of the exception with its module, unless it is built in; `WorkerLost` if the worker was
#: lost.
ERROR_TYPE: Final = "error.type"
#: Class of the exception with its module, unless it is built in; `WorkerLost` or `SchedulerLost`.
EXCEPTION_TYPE: Final = "exception.type"
#: Message of the exception.
EXCEPTION_MESSAGE: Final = "exception.message"
#: The traceback.
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
#: The function, if it differs from the task's name; of a submission, the user's function that
#: submits.
FUNCTION_NAME: Final = "code.function.name"
#: File of the user's code that submits, as Python names it.
CODE_FILE: Final = "code.file.path"
#: Line of the user's code that submits.
CODE_LINE: Final = "code.line.number"
#: Host that the worker is on.
HOST_NAME: Final = "host.name"
#: Process of the worker.
PROCESS_PID: Final = "process.pid"
#: Version of Python.
PYTHON_VERSION: Final = "process.runtime.version"
#: Implementation of Python.
PYTHON_NAME: Final = "process.runtime.name"
#: Path of the interpreter.
EXECUTABLE: Final = "process.executable.path"
#: Process of a service: the worker, for signals that user code recorded there.
SERVICE_INSTANCE: Final = "service.instance.id"
#: Exit code of the process, or minus the signal's number.
EXIT_CODE: Final = "process.exit.code"
#: Direction of bytes to and from disk: read, write.
DISK_DIRECTION: Final = "disk.io.direction"
#: Direction of bytes between workers: transmit.
NETWORK_DIRECTION: Final = "network.io.direction"
#: Stream that a task wrote to: stdout, stderr.
LOG_STREAM: Final = "log.iostream"
#: Kind of the processor or exporter: one of OpenTelemetry's, or a class.
COMPONENT_TYPE: Final = "otel.component.type"
#: The processor or exporter among those of its kind: `otlp_grpc_span_exporter/0`.
COMPONENT_NAME: Final = "otel.component.name"
#: The commit of the program's repository.
VCS_REVISION: Final = "vcs.ref.head.revision"
#: The branch that is checked out there.
VCS_REF_NAME: Final = "vcs.ref.head.name"
#: `branch`, where one is checked out.
VCS_REF_TYPE: Final = "vcs.ref.type"
#: Address of the remote repository in the web, without credentials.
VCS_URL: Final = "vcs.repository.url.full"
#: Name of the remote repository.
VCS_REPOSITORY: Final = "vcs.repository.name"
#: User or group that it belongs to.
VCS_OWNER: Final = "vcs.owner.name"
#: `github`, `gitlab`, `bitbucket` or `gitea`, if its host is named so.
VCS_PROVIDER: Final = "vcs.provider.name"
#: Id of the program's container, where it can be told.
CONTAINER_ID: Final = "container.id"
#: Name of the container.
CONTAINER_NAME: Final = "container.name"
#: `docker`, `podman`, `containerd`, `cri-o`, `apptainer`, `singularity`, …
CONTAINER_RUNTIME: Final = "container.runtime.name"
#: The image, without tag and digest; of Apptainer the path of its file.
CONTAINER_IMAGE: Final = "container.image.name"
#: Tag of the image.
CONTAINER_TAGS: Final = "container.image.tags"
#: The image with its digest: `name@sha256:…`.
CONTAINER_DIGESTS: Final = "container.image.repo_digests"
#: The runtime's id of the image.
CONTAINER_IMAGE_ID: Final = "container.image.id"

# -- Environment ---------------------------------------------------------------------------------

#: Whose environment it is.
ENVIRONMENT_PROCESS: Final = "scalable.environment.process"
#: SHA-256 of Python and its packages with their origins.
ENVIRONMENT_DIGEST: Final = "scalable.environment.digest"
#: Operating system and processor.
ENVIRONMENT_PLATFORM: Final = "scalable.environment.platform"
#: `model`, `count`, and `usable`: the processors that the process may use.
ENVIRONMENT_CPU: Final = "scalable.environment.cpu"
#: Memory of the host. In bytes.
ENVIRONMENT_MEMORY: Final = "scalable.environment.memory"
#: Environment variables of an allow-list.
ENVIRONMENT_VARIABLES: Final = "scalable.environment.variables"
#: Container that the process is in.
ENVIRONMENT_CONTAINER: Final = "scalable.environment.container"
#: Job of a batch system: `system`, `id`, `name`, `partition`, …
ENVIRONMENT_BATCH_JOB: Final = "scalable.environment.batch_job"
#: Versions that are not the program's, by package, and of `python`: the process's and the
#: program's.
ENVIRONMENT_DIFFERS: Final = "scalable.environment.differs"
#: Those of `scalable.environment.differs` that the process had imported by then.
ENVIRONMENT_IMPORTED: Final = "scalable.environment.imported"
#: Versions of all installed distributions, by name; on the first event with the digest, as conda's
#: packages and origins.
ENVIRONMENT_PACKAGES: Final = "scalable.environment.packages"
#: Versions and builds of conda's packages, by name.
ENVIRONMENT_CONDA: Final = "scalable.environment.conda_packages"
#: Where packages come from that no index provided, by name.
ENVIRONMENT_ORIGINS: Final = "scalable.environment.origins"
#: SHA-256 of Dask's configuration.
ENVIRONMENT_DASK_CONFIG_DIGEST: Final = "scalable.environment.dask_config_digest"

# -- Functions -----------------------------------------------------------------------------------

#: Module of the function.
FUNCTION_MODULE: Final = "scalable.function.module"
#: Qualified name of the function in its module.
FUNCTION_QUALNAME: Final = "scalable.function.qualname"
#: `sha256:` and the digest of the function's code, with what it calls.
FUNCTION_IDENTITY: Final = "scalable.function.identity"
#: What of the function's code cannot be seen, a text each.
FUNCTION_NOT_COVERED: Final = "scalable.function.not_covered"

# -- Attributes that stay in the process ---------------------------------------------------------

#: Class of the exception with its module, unless it is built in; sent as `error.type` or
#: `exception.type`.
ERROR_CLASS: Final = "scalable.error.class"
#: Digest of each argument of a call whose result was looked up, by the argument's name.
CACHE_ARGUMENTS: Final = "scalable.cache.arguments"
#: Event type of the record that a signal becomes in the run directory.
RECORD: Final = "scalable.record"
#: The key again: a failure record has it in its details, too.
FAILED_TASK: Final = "scalable.failure.task"
#: `worker` or `task`.
ENTITY_TYPE: Final = "scalable.entity.type"
#: Address of the worker, or key of the task.
ENTITY_ID: Final = "scalable.entity.id"
#: Cores in use.
OBSERVED_CPU: Final = "scalable.observed.cpu"
#: Memory in use, in 10⁹ bytes.
OBSERVED_MEMORY: Final = "scalable.observed.memory_gb"
#: Start of the first noticeable phase; see spans.jsonl.
SPAN_STARTED: Final = "dask.task.phases.start"
#: What the task was called with, each argument by name; sent as `dask.task.input.…`.
INPUT_PARAMETERS: Final = "scalable.task.input_parameters"
#: What the task returned, and the numbers that it recorded; sent as `dask.task.returned.…`.
OUTPUT_PARAMETERS: Final = "scalable.task.output_parameters"
#: Source of a function that tasks call.
FUNCTION_SOURCE: Final = "scalable.function.source"
#: What a function is made of: itself, helpers, classes, constants, packages.
FUNCTION_COMPONENTS: Final = "scalable.function.components"
#: Dask's configuration, on the first event with its digest: it is deep, and has empty tables.
ENVIRONMENT_DASK_CONFIG: Final = "scalable.environment.dask_config"
#: Never sent.
INTERNAL: Final = frozenset(
    {
        ERROR_CLASS,
        CACHE_ARGUMENTS,
        RECORD,
        FAILED_TASK,
        ENTITY_TYPE,
        ENTITY_ID,
        OBSERVED_CPU,
        OBSERVED_MEMORY,
        SPAN_STARTED,
        INPUT_PARAMETERS,
        OUTPUT_PARAMETERS,
        FUNCTION_SOURCE,
        FUNCTION_COMPONENTS,
        ENVIRONMENT_DASK_CONFIG,
    }
)

# -- Types ---------------------------------------------------------------------------------------

#: Sent as floating-point numbers, also where a whole number was given.
DOUBLES: Final = frozenset(
    {
        TASK_DURATION,
        TASK_QUEUED,
        TASK_TRANSFER,
        TASK_DISK_WRITE,
        TASK_CPU,
        REQUESTED_CPUS,
        WORKER_HEARTBEAT_AGE,
        WORKER_TTL,
        TIME_LIMIT,
        TIME_LEFT,
        CACHE_DURATION,
        COST_HOURLY,
        COST_MONTHLY,
        PHASE_DURATION,
        ROLLUP_SUM,
        ROLLUP_MIN,
        ROLLUP_MAX,
    }
)

# -- Events --------------------------------------------------------------------------------------

#: The run began; sent over OTLP alone, as the root span is sent at the end.
EVENT_RUN: Final = "scalable.run.started"
#: A task changed its state: submitted, running, retried, lost, succeeded, failed, cancelled.
EVENT_TASK: Final = "dask.task.state_change"
#: A task printed something, which is the body: lines that were written together to one stream.
EVENT_OUTPUT: Final = "dask.task.output"
#: A worker changed its state: launched, ready, removed, lost.
EVENT_WORKER: Final = "dask.worker.state_change"
#: What the program, the scheduler or a worker runs with.
EVENT_ENVIRONMENT: Final = "scalable.environment.found"
#: A task called a function, or a version of it, for the first time.
EVENT_FUNCTION: Final = "scalable.function.seen"
#: An attempt raised, or a worker was lost: on the attempt's span, or a log record.
EVENT_FAILURE: Final = "exception"
#: On a worker's span: it accepts no new tasks, as its memory is full.
EVENT_WORKER_PAUSED: Final = "dask.worker.paused"
#: On a worker's span: it accepts tasks again.
EVENT_WORKER_RESUMED: Final = "dask.worker.resumed"
#: On a worker's span: it wrote results to disk for lack of memory.
EVENT_WORKER_SPILLED: Final = "dask.worker.spilled"
#: On spans of a worker and of attempts there: the worker was lost.
EVENT_WORKER_LOST: Final = "dask.worker.lost"
#: On an attempt's span: the task will run again.
EVENT_TASK_RETRY: Final = "dask.task.retry"
#: The program or a task recorded an artifact.
EVENT_ARTIFACT: Final = "scalable.artifact.recorded"
#: A result was looked up in the cache.
EVENT_CACHE: Final = "scalable.cache.lookup"
#: The program or a task recorded a cost.
EVENT_COST: Final = "scalable.cost.recorded"

# -- Spans ---------------------------------------------------------------------------------------

#: The whole run; the root of its trace.
SPAN_RUN: Final = "run {project}"
#: What one of several programs recorded of a run that they write together; child of the run's root,
#: which the last of them sends.
SPAN_WRITER: Final = "writer {project}"
#: A call that sends a graph: `submit`, `map`, `compute`, `persist` or `get`, with the name of the
#: function or collection; single submits of one line, in a loop, are one. Child of the caller's
#: span, or the root of a trace of its own that is linked to the run. In a task, a child of the
#: attempt or of a span that its code has opened.
SPAN_SUBMIT: Final = "{operation} {name}"
KIND_SUBMIT: Final = SpanKind.PRODUCER
#: A block of code that the program names with Dask's `distributed.span()`, from the first
#: submission in it to the last end of their attempts; its submissions are its children. Child of
#: the block around it, else of the caller's span, else the root of a trace of its own that is
#: linked to the run. Of many blocks of one name in a row, the later ones share a span.
SPAN_DASK: Final = "{name}"
#: The tasks of one layer of a graph (Dask's task group), from the first start to the last end, with
#: a histogram of the durations of all attempts; child of the submission. Graphs of one task and
#: single submits have none. Tasks that run again after it was sent have a further one.
SPAN_LAYER: Final = "{name} (layer)"
#: One attempt of a task; child of the submission, or of its layer.
SPAN_ATTEMPT: Final = "{task}"
KIND_ATTEMPT: Final = SpanKind.CONSUMER
#: A worker, from its arrival to its end; child of the run.
SPAN_WORKER: Final = "worker {name}"
#: transfer, disk-read, deserialize …, if it took a noticeable share; child of the attempt.
SPAN_PHASE: Final = "{phase}"
#: All attempts of one name beyond the span budget, with a histogram of their durations; child of
#: the submission.
SPAN_ROLLUP: Final = "{name} (others)"
#: An attempt that runs for long, shown before it ends; child of the submission.
SPAN_RUNNING: Final = "{name} (running)"
#: In the place of a span that has children and was not received; its times are theirs.
SPAN_STAND_IN: Final = "{name} (not received)"

# -- Fields of the run directory -----------------------------------------------------------------

#: For each attribute that becomes a field of a record, the field's name. The field may
#: be of the record or of its `details`; `task.state` is one of tasks alone.
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    PHASE: ("phase",),
    PROVIDER: ("provider",),
    TASK_KEY: ("task_id", "entity_id"),
    TASK_NAME: ("task_name",),
    TASK_STATE: ("task.state",),
    TASK_ATTEMPT: ("attempt",),
    TASK_DEPENDENCIES: ("dependencies",),
    TASK_DEPENDENCY_COUNT: ("dependency_count",),
    TASK_NBYTES: ("nbytes",),
    TASK_RESULT_TYPE: ("result_type",),
    TASK_BLAME: ("blame",),
    TASK_RECOMPUTED: ("recomputed",),
    TASK_RESCHEDULED: ("rescheduled",),
    TASK_REOPENS: ("reopens",),
    TASK_KNOWN_BEFORE: ("known_before",),
    TASK_WILL_RETRY: ("will_retry",),
    TASK_DEATHS: ("deaths",),
    TASK_DEATHS_PRESENT: ("deaths_present",),
    TASK_DEATHS_ALONE: ("deaths_alone",),
    TASK_DURATION: ("task.duration_s",),
    TASK_QUEUED: ("queue_s",),
    TASK_TRANSFER: ("transfer_s",),
    TASK_DISK_WRITE: ("disk_write_s",),
    TASK_CPU: ("cpu_s",),
    GRAPH_TASKS: ("graph.tasks",),
    GRAPH_LAYERS: ("graph.layers",),
    COMPONENT: ("component",),
    TAG: ("tag",),
    REQUESTED_WORKERS: ("requested_workers",),
    REQUESTED_CPUS: ("requested_cpus",),
    REQUESTED_MEMORY: ("requested_memory",),
    REQUESTED_WALLTIME: ("requested_walltime",),
    WORKER_ADDRESS: ("worker",),
    WORKER_NAME: ("worker_id",),
    WORKER_STATE: ("worker.state",),
    WORKER_NTHREADS: ("nthreads",),
    WORKER_MEMORY_LIMIT: ("memory_limit_bytes",),
    WORKER_MEMORY: ("memory_bytes",),
    WORKER_NANNY: ("nanny",),
    WORKER_REASON: ("reason",),
    WORKER_TASKS_RUNNING: ("tasks_running",),
    WORKER_TASKS_RECOMPUTED: ("tasks_recomputed",),
    WORKER_SPILLED: ("spilled_bytes",),
    WORKER_HEARTBEAT_AGE: ("heartbeat_age_s",),
    WORKER_TTL: ("worker_ttl_s",),
    WORKER_MEMORY_PEAK: ("memory_peak_bytes",),
    WORKER_MEMORY_SAMPLES: ("memory_samples",),
    MEMORY_KILL: ("memory_kill",),
    WORKER_TASKS: ("tasks",),
    PROCESS_SIGNAL: ("signal",),
    STDERR_TAIL: ("stderr_tail",),
    STDERR_PATH: ("stderr_path",),
    OOM_KILLS_GROUP: ("oom_kills_group",),
    OOM_KILLS_HOST: ("oom_kills_host",),
    TASKS_WAITING: ("tasks_waiting",),
    BATCH_SYSTEM: ("batch_system",),
    BATCH_JOB: ("batch_job",),
    TIME_LIMIT: ("time_limit_s",),
    TIME_LEFT: ("time_left_s",),
    CAUSE: ("cause",),
    CAUSE_CONFIDENCE: ("confidence",),
    CAUSE_EVIDENCE: ("evidence",),
    NOT_KNOWN: ("not_known",),
    EXCEPTION_BASES: ("bases",),
    EXCEPTION_ERRNO: ("errno",),
    METADATA: ("metadata",),
    STAGE: ("stage",),
    ARTIFACT_NAME: ("artifact_name",),
    ARTIFACT_LOCATION: ("location",),
    ARTIFACT_KIND: ("kind",),
    ARTIFACT_SIZE: ("artifact.size_bytes",),
    ARTIFACT_DIGEST: ("digest",),
    ARTIFACT_CATALOG: ("catalog",),
    ARTIFACT_VERSION: ("artifact.version",),
    ARTIFACT_PUT_BY: ("put_by",),
    CACHE_FUNCTION: ("cache.function_name",),
    CACHE_KEY: ("key_digest",),
    CACHE_HIT: ("hit",),
    CACHE_DURATION: ("cache.duration_s",),
    CACHE_SIZE: ("cache.size_bytes",),
    CACHE_IDENTITY: ("cache.function_identity",),
    CACHE_ARGUMENTS_DIGEST: ("arguments_digest",),
    CACHE_RESULT_DIGEST: ("result_digest",),
    CACHE_REUSED_FROM: ("reused_from",),
    CACHE_NOT_KEPT: ("not_kept",),
    COST_REGION: ("region",),
    COST_CURRENCY: ("currency",),
    COST_HOURLY: ("total_hourly",),
    COST_MONTHLY: ("total_monthly",),
    COST_ITEMS: ("line_items",),
    ERROR_TYPE: ("error_type",),
    EXCEPTION_TYPE: ("failure_class",),
    EXCEPTION_MESSAGE: ("error_message", "message"),
    EXCEPTION_STACKTRACE: ("traceback",),
    FUNCTION_NAME: ("task.function_name", "function.function_name"),
    CODE_FILE: ("function.file",),
    CODE_LINE: ("function.line",),
    HOST_NAME: ("host",),
    PROCESS_PID: ("pid",),
    PYTHON_VERSION: ("environment.python", "function.python"),
    PYTHON_NAME: ("environment.implementation",),
    EXECUTABLE: ("environment.executable",),
    EXIT_CODE: ("exit_code",),
    ENVIRONMENT_PROCESS: ("process",),
    ENVIRONMENT_DIGEST: ("environment.digest",),
    ENVIRONMENT_PLATFORM: ("platform",),
    ENVIRONMENT_CPU: ("environment.cpu",),
    ENVIRONMENT_MEMORY: ("environment.memory_bytes",),
    ENVIRONMENT_VARIABLES: ("variables",),
    ENVIRONMENT_CONTAINER: ("environment.container",),
    ENVIRONMENT_BATCH_JOB: ("environment.batch_job",),
    ENVIRONMENT_DIFFERS: ("differs",),
    ENVIRONMENT_IMPORTED: ("imported",),
    ENVIRONMENT_PACKAGES: ("environment.packages",),
    ENVIRONMENT_CONDA: ("conda_packages",),
    ENVIRONMENT_ORIGINS: ("origins",),
    ENVIRONMENT_DASK_CONFIG_DIGEST: ("dask_config_digest",),
    FUNCTION_MODULE: ("function.module",),
    FUNCTION_QUALNAME: ("function.qualname",),
    FUNCTION_IDENTITY: ("function.identity",),
    FUNCTION_NOT_COVERED: ("function.not_covered",),
    ERROR_CLASS: ("error_class",),
    CACHE_ARGUMENTS: ("cache.arguments",),
    FAILED_TASK: ("failure.details.task_id",),
    ENTITY_TYPE: ("entity_type",),
    ENTITY_ID: ("entity_id",),
    OBSERVED_CPU: ("observed_cpu",),
    OBSERVED_MEMORY: ("observed_memory_gb",),
    SPAN_STARTED: ("phases_start",),
    INPUT_PARAMETERS: ("input_parameters",),
    OUTPUT_PARAMETERS: ("output_parameters",),
    FUNCTION_SOURCE: ("function.source",),
    FUNCTION_COMPONENTS: ("function.components",),
    ENVIRONMENT_DASK_CONFIG: ("dask_config",),
}

# -- Names of earlier versions -------------------------------------------------------------------

RENAMED_ATTRIBUTES: Final[Mapping[str, str]] = {
    "dask.task.result.size": "dask.task.return.size",
    "dask.task.result.type": "dask.task.return.type",
    "dask.task.duration": "dask.attempt.duration",
    "dask.task.queue.duration": "dask.attempt.queue.duration",
    "dask.task.transfer.duration": "dask.attempt.transfer.duration",
    "dask.task.cpu.time": "dask.attempt.cpu.time",
    "dask.task.deaths": "dask.task.deaths.details",
    "dask.task.deaths.present": "dask.task.deaths.count",
    "dask.worker.spilled": "dask.worker.spill.size",
    "dask.worker.spilled.size": "dask.worker.spill.size",
    "dask.worker.memory.limit": "dask.worker.memory_limit",
    "scalable.cause": "scalable.cause.name",
    "process.exit.signal": "dask.worker.exit.signal",
    "process.stderr.tail": "dask.worker.stderr.tail",
    "process.stderr.path": "dask.worker.stderr.path",
    "process.cgroup.oom_kills": "dask.worker.oom_kills.cgroup",
    "host.oom_kills": "dask.worker.oom_kills.host",
}
RENAMED_METRICS: Final[Mapping[str, str]] = {
    "scalable.recorder.facts": "scalable.recorder.facts.received",
}
RENAMED_EVENTS: Final[Mapping[str, str]] = {
    "scalable.artifact": "scalable.artifact.recorded",
    "scalable.cost": "scalable.cost.recorded",
}

"""The facts that plugins note and the recorder consumes.

A fact says what was seen, when, and for which task attempt or worker. It is a tuple, whose first
element is its kind: a hook makes one small object, and Dask packs it as it is. Times are seconds
since the epoch on the scheduler's clock; a key is made by :func:`~scalable.facts.identity.task_id`.

The most frequent fact, that a task was forgotten after its success or failure, is a bare string,
its key. :func:`time_of` reads facts of every form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from sys import getsizeof
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, cast

from scalable.facts.texts import MAX_TEXT, shortened

#: Version of facts and of the messages that carry them; each change of their form raises it.
PROTOCOL: Final = 4
#: The oldest version that this one can read, and that can read this one.
OLDEST_PROTOCOL: Final = 1

#: Bytes of one fact at most.
MAX_FACT: Final = 512 * 2**10
#: Entries kept of one list or mapping that a peer sends.
MAX_ENTRIES: Final = 1_000
#: Bytes of the program's own events that wait for the recorder at most; further ones are counted.
MAX_NOTED: Final = 16 * 2**20
#: Kinds of unreadable facts that are counted separately.
MAX_PLACES: Final = 100

#: ``(action, start, stop)`` of what happened around an execution: transfer, disk-read, …
Phase: TypeAlias = tuple[str, float, float]


class Submitted(NamedTuple):
    """The scheduler received a task."""

    kind: int
    time: float
    key: str
    name: str
    function: str | None
    dependencies: tuple[str, ...]
    dependency_count: int
    #: The annotation that the client gave the task: run id and OpenTelemetry context.
    carrier: str | None
    #: The scheduler knew the task before this run began or before this client asked for it.
    known_before: bool


class Started(NamedTuple):
    """A worker began to execute a task."""

    kind: int
    time: float
    key: str
    run_id: int
    worker: str


class Succeeded(NamedTuple):
    """An attempt returned."""

    kind: int
    time: float
    key: str
    run_id: int
    worker: str
    start: float
    stop: float
    #: When the task became runnable; it queued until `start`.
    ready: float
    phases: tuple[Phase, ...]
    nbytes: int
    typename: str
    cpu: float | None = None


class Failed(NamedTuple):
    """An attempt raised, or the scheduler itself failed the task (`worker` may be empty then)."""

    kind: int
    time: float
    key: str
    run_id: int | None
    worker: str
    start: float | None
    stop: float | None
    ready: float
    phases: tuple[Phase, ...]
    error_type: str
    message: str
    traceback: str
    cpu: float | None
    will_retry: bool
    #: Classes that the exception's class inherits from, nearest first; its error number.
    bases: tuple[str, ...] = ()
    errno: int | None = None
    #: Module of the exception's class; empty if it is built in or unknown.
    module: str = ""
    #: Descriptions of what it was called with, as JSON; see :mod:`scalable.facts.parameters`.
    parameters: bytes = b""


class Blamed(NamedTuple):
    """A task failed without running because the task `cause` had failed."""

    kind: int
    time: float
    key: str
    cause: str


class Unassigned(NamedTuple):
    """A task left its worker without a result: cancelled, rescheduled, or the worker died."""

    kind: int
    time: float
    key: str
    run_id: int | None
    worker: str
    #: ``worker-lost``; ``dependency-lost`` if a worker that held a dependency died; or the reason
    #: that the scheduler's stimulus id names.
    reason: str


class Waiting(NamedTuple):
    """A task that was known already will run (again)."""

    kind: int
    time: float
    key: str


class Forgotten(NamedTuple):
    """The scheduler forgot a task; after its success or failure, the bare key is this fact."""

    kind: int
    time: float
    key: str


class WorkerReady(NamedTuple):
    """A worker registered with the scheduler."""

    kind: int
    time: float
    address: str
    name: str
    host: str
    pid: int
    nthreads: int
    memory_limit: int
    nanny: str | None
    #: Names of its Dask resources.
    resources: tuple[str, ...] = ()


class WorkerHello(NamedTuple):
    """A worker reports when its process was launched, and where it runs."""

    kind: int
    time: float
    address: str
    launched: float
    #: Name of its host; empty if it does not say.
    host: str = ""


class WorkerGone(NamedTuple):
    """A worker left the scheduler."""

    kind: int
    time: float
    address: str
    #: True if it was asked to close.
    expected: bool
    reason: str
    nthreads: int
    #: ``(key, run_id)`` of what was assigned to it, in the order in which it would run.
    assigned: tuple[tuple[str, int], ...]
    #: ``(run_id, start)`` of what was executing or had just ended, read from the worker's slot
    #: file; empty if it shut down cleanly, None if the file cannot be read.
    executing: tuple[tuple[int, float], ...] | None
    tasks_recomputed: int
    memory: int
    #: Most bytes that it had spilled to disk at one time.
    spilled: int = 0
    #: Seconds since its last heartbeat.
    heartbeat_age: float | None = None
    #: Dask ended it because it sent none for this many seconds.
    ttl: float | None = None


class Sample(NamedTuple):
    """A worker's usage as of its last heartbeat."""

    kind: int
    time: float
    address: str
    #: Cores in use.
    cpu: float
    #: Bytes.
    memory: int
    memory_limit: int
    #: Bytes of results kept in memory and on disk.
    managed: int
    spilled: int
    #: How late its event loop ran what was due, in seconds.
    lag: float
    #: State of the worker as Dask names it: running, paused, closing, …
    status: str
    #: Bytes that it sent to other workers since it began.
    sent: int


class SchedulerSample(NamedTuple):
    """The scheduler's own usage, and sums over all workers."""

    kind: int
    time: float
    #: How late its event loop ran what was due, in seconds.
    lag: float
    #: Bytes of results written to disk and read back since the scheduler began.
    spill_written: int
    spill_read: int


class Restarted(NamedTuple):
    """``client.restart()``: the scheduler forgot every task."""

    kind: int
    time: float


class SchedulerClosed(NamedTuple):
    """The scheduler shuts down cleanly: no task that it still knows will finish."""

    kind: int
    time: float


class AttemptError(NamedTuple):
    """Details of an attempt that raised, from its worker; added to its :class:`Failed`."""

    kind: int
    time: float
    key: str
    run_id: int
    error_type: str
    message: str
    traceback: str
    cpu: float | None
    bases: tuple[str, ...] = ()
    errno: int | None = None
    module: str = ""
    parameters: bytes = b""


class WorkerExit(NamedTuple):
    """A worker's process ended, as its nanny saw it."""

    kind: int
    #: On the nanny's clock.
    time: float
    #: Empty if the process ended before it had reported its address to the nanny.
    address: str
    #: Exit status; minus the signal's number if a signal ended it.
    status: int
    signal: str | None
    #: The nanny starts another process.
    restarting: bool
    #: The nanny ended it because of its memory.
    memory_kill: bool
    #: Processes that the kernel's out-of-memory killer ended since the one before, in the nanny's
    #: control group and on its host.
    oom_kills_group: int
    oom_kills_host: int
    #: The worker's log, by its name in the spool of its host; empty if there is none.
    log: str
    #: The end of that log.
    tail: str
    #: The nanny's own address.
    nanny: str = ""


class WorkerEvent(NamedTuple):
    """Something else about a worker.

    `event` is ``process`` (where its log is, limits of its batch job), ``environment`` (what its
    process runs with), ``unwatched`` (the package cannot be imported there), or an event of Dask:
    ``worker-restart-memory``, ``worker-ttl``.
    """

    kind: int
    time: float
    address: str
    event: str
    fields: dict[str, Any]


class ChildrenExported(NamedTuple):
    """An attempt has child spans that its worker exports itself; noted before its end."""

    kind: int
    time: float
    key: str
    run_id: int


class TaskGraph(NamedTuple):
    """The scheduler received a graph that a task sent; noted before its tasks."""

    kind: int
    time: float
    #: As the tasks of the graph have it.
    carrier: str


class RelayBatch(NamedTuple):
    """Spans, log records or metrics, as `kind` says, of user code and of Dask in a process.

    Or what user code has written to the spans of its attempts, or printed.
    """

    kind: int
    time: float
    #: Address of the worker; empty for the scheduler's process.
    worker: str
    number: int
    #: JSON of a :class:`~scalable.facts.relay_items.Payload`.
    payload: bytes
    #: Items of this kind that were dropped since the last report.
    dropped: int


class UserEvent(NamedTuple):
    """An artifact, a cost, a metric or a cache look-up that user code recorded."""

    kind: int
    time: float
    #: The attempt whose code it was; None for code of the program.
    key: str | None
    run_id: int | None
    worker: str
    #: ``artifact``, ``cost``, ``cache`` or ``metric``.
    event_type: str
    #: Fields of the record, as the run directory names them.
    fields: dict[str, Any]


Fact: TypeAlias = (
    Submitted
    | Started
    | Succeeded
    | Failed
    | Blamed
    | Unassigned
    | Waiting
    | Forgotten
    | WorkerReady
    | WorkerHello
    | WorkerGone
    | Sample
    | SchedulerSample
    | Restarted
    | SchedulerClosed
    | AttemptError
    | ChildrenExported
    | TaskGraph
    | RelayBatch
    | WorkerExit
    | WorkerEvent
    | UserEvent
    | str
)

#: Event of a worker on which the package cannot be imported.
UNWATCHED: Final = "unwatched"
#: User event of a function that tasks call.
FUNCTION: Final = "function"
#: Event of a worker, or of the scheduler, that says what its process runs with.
ENVIRONMENT: Final = "environment"

SUBMITTED: Final = 1
STARTED: Final = 2
SUCCEEDED: Final = 3
FAILED: Final = 4
BLAMED: Final = 5
UNASSIGNED: Final = 6
WAITING: Final = 7
FORGOTTEN: Final = 8
WORKER_READY: Final = 9
WORKER_HELLO: Final = 10
WORKER_GONE: Final = 11
SAMPLE: Final = 12
RESTARTED: Final = 13
ATTEMPT_ERROR: Final = 14
SCHEDULER_SAMPLE: Final = 15
SCHEDULER_CLOSED: Final = 16
CHILDREN_EXPORTED: Final = 17
TASK_GRAPH: Final = 18
RELAY_SPANS: Final = 20
RELAY_LOGS: Final = 21
RELAY_METRICS: Final = 22
RELAY_ATTEMPTS: Final = 23
RELAY_OUTPUT: Final = 24
RELAY_PARAMETERS: Final = 25
WORKER_EXIT: Final = 30
WORKER_EVENT: Final = 31
USER_EVENT: Final = 40

_TYPES: Final[dict[int, Any]] = {
    SUBMITTED: Submitted,
    STARTED: Started,
    SUCCEEDED: Succeeded,
    FAILED: Failed,
    BLAMED: Blamed,
    UNASSIGNED: Unassigned,
    WAITING: Waiting,
    FORGOTTEN: Forgotten,
    WORKER_READY: WorkerReady,
    WORKER_HELLO: WorkerHello,
    WORKER_GONE: WorkerGone,
    SAMPLE: Sample,
    SCHEDULER_SAMPLE: SchedulerSample,
    RESTARTED: Restarted,
    SCHEDULER_CLOSED: SchedulerClosed,
    CHILDREN_EXPORTED: ChildrenExported,
    TASK_GRAPH: TaskGraph,
    ATTEMPT_ERROR: AttemptError,
    RELAY_SPANS: RelayBatch,
    RELAY_LOGS: RelayBatch,
    RELAY_METRICS: RelayBatch,
    RELAY_ATTEMPTS: RelayBatch,
    RELAY_OUTPUT: RelayBatch,
    RELAY_PARAMETERS: RelayBatch,
    WORKER_EXIT: WorkerExit,
    WORKER_EVENT: WorkerEvent,
    USER_EVENT: UserEvent,
}

_new: Final[Any] = tuple.__new__
#: Kinds that every task has: they stay plain tuples, which the garbage collector need not track.
_PLAIN: Final = frozenset({SUBMITTED, SUCCEEDED})


def time_of(fact: Fact) -> float | None:
    """When it happened; None if the fact does not say."""
    return None if isinstance(fact, str) else fact[1]


def decode(raw: Iterable[Any], unread: Counter[str] | None = None) -> list[Fact]:
    """Turn deserialised tuples into facts.

    A peer of another version may send more fields than are known, which are ignored, or fewer,
    which get their defaults if they have any. What cannot be read is left out, and counted by kind
    in `unread`. :class:`Submitted` and :class:`Succeeded` stay plain tuples.
    """
    facts: list[Any] = []
    for given in raw:
        item: Any = given
        if item.__class__ is str:
            facts.append(item)
            continue
        kind: Any = item[0] if isinstance(item, tuple) and item else None
        fact_type = _TYPES.get(kind) if kind.__class__ is int else None
        if fact_type is None:
            _count(unread, f"kind {kind}" if kind.__class__ is int else "no fact")
        elif fact_type is type(item):
            facts.append(item)
        else:
            fields = item
            if len(fields) != len(fact_type._fields):
                fields = _fitted(fields, fact_type)
                if fields is None:
                    _count(unread, fact_type.__name__)
                    continue
            # What `_make` does, at a third of its cost.
            facts.append(fields if kind in _PLAIN else _new(fact_type, fields))
    return facts


def report(reports: Any) -> dict[str, Any]:
    """A message to the scheduler with ``(run id or None, fact)`` pairs."""
    return {"reports": reports, "protocol": PROTOCOL, "oldest": OLDEST_PROTOCOL}


def are_compatible(protocol: Any, oldest: Any) -> bool:
    """Whether this version and a peer of these versions can read each other."""
    return (
        isinstance(protocol, int)
        and isinstance(oldest, int)
        and protocol >= OLDEST_PROTOCOL
        and oldest <= PROTOCOL
    )


def _fitted(item: tuple[Any, ...], fact_type: Any) -> tuple[Any, ...] | None:
    """Exactly the fields of this version; None if one without a default is missing."""
    fields, defaults = fact_type._fields, fact_type._field_defaults
    missing = fields[len(item) :]
    if all(name in defaults for name in missing):
        return (*item[: len(fields)], *(defaults[name] for name in missing))
    return None


def _count(unread: Counter[str] | None, kind: str) -> None:
    if unread is not None:
        place = f"unread:{kind}"
        unread[place if place in unread or len(unread) < MAX_PLACES else "unread:other"] += 1


def size_of(value: Any) -> int:
    """Bytes of a fact, or of a plain value within it, in memory."""
    if isinstance(value, tuple | list):
        return 56 + sum(8 + size_of(item) for item in cast("Iterable[Any]", value))
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return 64 + sum(64 + size_of(key) + size_of(item) for key, item in items)
    return getsizeof(value)


def bounded(fact: Fact) -> Fact | None:
    """A peer's fact with long texts cut; None if it is still too large, or its key too long."""
    if size_of(fact) <= MAX_TEXT:
        return fact
    if len(getattr(fact, "key", None) or "") > MAX_TEXT:
        return None
    cut: Any = _cut(fact)
    small = _new(type(fact), cut)
    return small if size_of(small) <= MAX_FACT else None


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else shortened(value)
    if isinstance(value, tuple | list):
        return tuple(_cut(item) for item in islice(cast("Iterable[Any]", value), MAX_ENTRIES))
    if isinstance(value, dict):
        items = islice(cast("dict[Any, Any]", value).items(), MAX_ENTRIES)
        return {_cut(key): _cut(item) for key, item in items}
    return value


class Batch(NamedTuple):
    """The result of one pull."""

    facts: list[Fact]
    #: Number of the next fact: what the next pull acknowledges.
    next: int
    #: Further facts are available.
    more: bool
    #: Facts dropped so far because they were not pulled in time.
    dropped: int
    #: Internal errors of the plugins so far, by place.
    errors: dict[str, int]
    #: The scheduler's clock now.
    now: float


class FactSource(Protocol):
    """Where a recorder gets its facts; every method is called by the recorder's thread."""

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on.

        Raises
        ------
        ConnectionRefusedError
            There has been no such scheduler for a while, or it does not know the run.
        ConnectionError
            The scheduler did not answer within `timeout` seconds.
        TimeoutError
            The program that relays the facts did not send them: it is busy or stopped. The
            scheduler may be well.
        """
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...

"""What processes of the cluster relay: the JSON items in the payload of a :class:`RelayBatch`.

Times are nanoseconds since the epoch on the scheduler's clock.
"""

from __future__ import annotations

from typing import Any, Final, NotRequired, TypeAlias, TypedDict

Attributes: TypeAlias = dict[str, Any]
#: Name, version and schema URL of an instrumentation scope.
Scope: TypeAlias = tuple[str, str | None, str | None]
#: Name, time and attributes of an event of a span.
EventItem: TypeAlias = tuple[str, int, Attributes]
#: Trace, span, flags and attributes of a link.
LinkItem: TypeAlias = tuple[str, str, int, Attributes]


class Payload(TypedDict):
    """The payload of one batch."""

    #: Describes the process: resource attributes, and `OTEL_RESOURCE_ATTRIBUTES` as `attributes`.
    resource: dict[str, Any]
    items: list[Any]


class Position(TypedDict):
    """Trace, span and task of a signal; ids in hexadecimal."""

    trace: str | None
    span: str | None
    flags: int
    task: str | None
    #: It is recorded, and sent nowhere.
    suppressed: NotRequired[bool]


class SpanItem(Position):
    """A span that has ended."""

    name: str
    kind: int
    start: int
    end: int
    parent: str | None
    #: Its parent is a span of another process that no worker has.
    remote: NotRequired[bool]
    #: Span id of its attempt, if that is in the same trace.
    attempt: NotRequired[str | None]
    #: Header of the trace state.
    state: str
    #: Code and description.
    status: tuple[int, str | None]
    attributes: Attributes
    events: list[EventItem]
    links: list[LinkItem]
    #: Attributes, events and links that the SDK's limits dropped.
    dropped: tuple[int, int, int]
    scope: Scope


class AttemptItem(TypedDict):
    """What code has written to the span of its attempt since the last item about it."""

    task: str
    run_id: int
    #: The span's name, if it was renamed.
    name: NotRequired[str]
    #: Code and description.
    status: tuple[int, str | None]
    #: All attributes, if any of them has changed.
    attributes: NotRequired[Attributes]
    #: New ones.
    events: list[EventItem]
    links: list[LinkItem]
    #: Events and links that there are now, the newest; earlier ones were dropped.
    kept: tuple[int, int]
    #: Attributes, events and links that the SDK's limits dropped.
    dropped: tuple[int, int, int]


class LogItem(Position):
    """A log record, of Python's logging or of OpenTelemetry's API."""

    time: int
    severity: int | None
    severity_text: str | None
    #: Level of Python's logging.
    level: NotRequired[int]
    event: str | None
    body: Any
    attributes: Attributes
    scope: Scope


#: Flags of a piece of output. It was written by a thread without the context of an attempt, while
#: only this one ran.
BY_ELIMINATION: Final = 1
#: A handler of Python's logging wrote it for a record that the run has.
LOGGED: Final = 2
#: It was not written by Python, but by a C library or another process.
RAW: Final = 4

#: In the place of a stream: the text is the number of characters that were left out.
LEFT_OUT: Final = 0

#: In the place of a stream: it is not known which of both.
EITHER: Final = 3

#: Time, stream (1 for stdout, 2 for stderr), flags and text.
OutputPiece: TypeAlias = tuple[int, int, int, str]


class OutputItem(Position):
    """What an attempt has printed since the last item about it."""

    run_id: int
    pieces: list[OutputPiece]


class CallItem(TypedDict):
    """What an attempt was called with, and what it returned: descriptions."""

    task: str
    run_id: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


class PointItem(TypedDict):
    """A point of a metric: a number (`value`), or a histogram (the rest)."""

    attributes: Attributes
    start: int
    time: int
    #: Value, time, trace, span, attributes.
    exemplars: list[tuple[float, int, str, str, Attributes]]
    value: NotRequired[float]
    count: NotRequired[int]
    sum: NotRequired[float]
    buckets: NotRequired[list[int]]
    bounds: NotRequired[list[float]]
    min: NotRequired[float]
    max: NotRequired[float]


class MetricItem(TypedDict):
    """A metric with its points."""

    name: str
    unit: str
    description: str
    #: ``sum``, ``histogram`` or ``gauge``.
    kind: str
    #: Of a sum: whether it only grows, and whether each point is the increase since the last one.
    monotonic: NotRequired[bool]
    delta: NotRequired[bool]
    points: list[PointItem]
    scope: Scope

"""Sends signals to a collector that may be slow or unreachable: bounded queues, own threads."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from scalable.common.otel_environment import number_in
from scalable.telemetry.export.exporter_logs import log_filter
from scalable.telemetry.export.sinks import Begun, Sink, UndeliverableError

T = TypeVar("T")

SignalName = Literal["traces", "metrics", "logs"]

#: Where nothing else is configured: items that wait to be sent at most, items sent at once, and
#: seconds between two exports.
QUEUE: Final = 10_000
BATCH: Final = 512
DELAYS: Final[Mapping[SignalName, float]] = {"traces": 5.0, "logs": 1.0}
#: Maximum bytes in one queue, from the lengths of texts and :data:`ITEM_BYTES` per item.
MAX_BYTES: Final = 64 * 2**20
ITEM_BYTES: Final = 1_000
#: First and longest pause after a failed export, in seconds.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: Closing waits at most this long for a destination that did not answer before, in seconds.
LAST_TRY: Final = 1.0
#: Reason of what was left when the time to send was over.
TIMEOUT: Final = "timeout"


class Limits(NamedTuple):
    """Limits of a queue: items that can wait, items sent at once, seconds between two exports."""

    capacity: int
    batch: int
    delay: float


def limits_from(
    environ: Mapping[str, str], prefix: str, capacity: int, delay: float = 5.0
) -> Limits:
    """Limits by the specification's variables (``OTEL_BSP_*``, ``OTEL_BLRP_*``).

    `capacity` is the default without a variable. It is larger than that of the specification,
    because a recorder adds thousands of spans at once.
    """
    delay = number_in(environ, f"{prefix}_SCHEDULE_DELAY", delay * 1e3) / 1e3
    capacity = max(1, int(number_in(environ, f"{prefix}_MAX_QUEUE_SIZE", capacity)))
    batch = max(1, int(number_in(environ, f"{prefix}_MAX_EXPORT_BATCH_SIZE", BATCH)))
    return Limits(capacity, min(batch, capacity), delay)


@dataclass(slots=True)
class Counts:
    """Counts of the items of a shipper by outcome; written by it, read by the recorder's thread.

    Metrics are counted by point.
    """

    sent: int = 0
    #: Rejected by the destination, or left at the end.
    failed: int = 0
    #: These, by the reason.
    failed_by: Counter[str] = field(default_factory=Counter[str])
    #: The queue was full.
    dropped: int = 0
    #: Failed exports; a later one may have sent the same items.
    failures: int = 0

    def fail(self, count: int, reason: str) -> None:
        """Count items that were not accepted."""
        if count:
            self.failed += count
            self.failed_by[reason] += count


def count_of(item: Any) -> int:
    """What an item counts: a collection of metrics as many as it has points."""
    if type(item) is Begun:
        return 0  # its span is an item too
    # Of the SDK's MetricsData. Its module takes 10 ms to import, and the program sends nothing.
    resources: Any = getattr(item, "resource_metrics", None)
    if resources is not None:
        return sum(
            len(metric.data.data_points)
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
    return 1


def weight_of(item: Any) -> int:
    """Estimate the memory of a span or log record in bytes, from the texts in it."""
    if type(item) is Begun:
        return 0  # its span is an item too
    record: Any = getattr(item, "log_record", item)
    body: Any = getattr(record, "body", None)
    weight = ITEM_BYTES + (len(body) if isinstance(body, str) else 0)
    for holder in (record, *getattr(record, "events", ())):
        for value in (getattr(holder, "attributes", None) or {}).values():
            weight += len(value) if isinstance(value, str) else 0
    return weight


class Shipper(Generic[T]):
    """Sends one kind of signal to one destination, on a daemon thread.

    :meth:`put` and :meth:`close` are called by the recorder's thread and never wait for the
    destination beyond their deadline. A batch that was not accepted is sent again, with growing
    pauses, unless the destination has rejected it for good. In this time the queue keeps what fits;
    the oldest items are dropped and counted.
    """

    def __init__(
        self,
        signal: SignalName,
        sink: Sink[T],
        limits: Limits,
        on_trouble: Callable[[str], None],
    ) -> None:
        self.signal: SignalName = signal
        self.counts = Counts()
        self._sink = sink
        self._limits = limits
        self._on_trouble = on_trouble
        #: Items with their sizes, which add up to `_bytes`, and what they count.
        self._queue: deque[tuple[T, int, int]] = deque()
        self._bytes = 0
        self._count = 0
        self._batch: list[T] = []
        self._batch_count = 0
        self._condition = threading.Condition()
        self._closing = False
        self._given_up = False
        self._pause = 0.0
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Items that wait to be sent."""
        return self._count + (self._batch_count if self._batch else 0)

    @property
    def sink(self) -> Sink[T]:
        """Where it sends to."""
        return self._sink

    @property
    def capacity(self) -> int:
        """Items that can wait."""
        return self._limits.capacity

    def put(self, items: Sequence[T]) -> None:
        """Add items; returns at once."""
        if not items:
            return
        with self._condition:
            queue = self._queue
            for item in items:
                weight = weight_of(item)
                count = count_of(item)
                queue.append((item, weight, count))
                self._bytes += weight
                self._count += count
            while queue and (len(queue) > self._limits.capacity or self._bytes > MAX_BYTES):
                self.counts.dropped += self._pop()[1]
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"scalable-otlp-{self.signal}", daemon=True
                )
                self._thread.start()
            elif len(queue) >= self._limits.batch:
                self._condition.notify_all()

    def _pop(self) -> tuple[T, int]:
        item, weight, count = self._queue.popleft()
        self._bytes -= weight
        self._count -= count
        return item, count

    def begin_close(self) -> None:
        """Start to send what is left, without waiting; several shippers can do this at once."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()

    def close(self, deadline: float) -> None:
        """Send what is left until `deadline` (:func:`time.monotonic`), then give up."""
        self.begin_close()
        thread = self._thread
        if thread is not None:
            end = min(deadline, monotonic() + LAST_TRY) if self._pause else deadline
            thread.join(max(0.0, end - monotonic()))
        with self._condition:
            self._given_up = True
            self._condition.notify_all()
            left = self.waiting
            self.counts.fail(left, TIMEOUT)
            self._clear()
        self._sink.shutdown()
        if left and thread is not None:
            message = log_filter.last_message(thread.ident)
            self._on_trouble(f"{left} items took too long{message and f' ({message})'}")

    def _clear(self) -> None:
        self._queue.clear()
        self._count = self._bytes = 0

    def _run(self) -> None:
        while self._next_batch():
            self._send()

    def _next_batch(self) -> bool:
        """Wait for a batch; return False when there is nothing left to do."""
        limits = self._limits
        with self._condition:
            if self._pause and not self._given_up:
                # While closing there is one more try, and no pause before it.
                self._condition.wait_for(lambda: self._closing or self._given_up, self._pause)
            if not self._batch:
                if not self._closing:
                    self._condition.wait_for(
                        lambda: self._closing or len(self._queue) >= limits.batch, limits.delay
                    )
                while not self._queue and not self._closing:
                    self._condition.wait(limits.delay or 1.0)
                count = min(limits.batch, len(self._queue))
                taken = [self._pop() for _ in range(count)]
                self._batch = [item for item, _ in taken]
                self._batch_count = sum(count for _, count in taken)
            return bool(self._batch) and not self._given_up

    def _send(self) -> None:
        last_try = self._closing and bool(self._pause)
        try:
            self._sink.send(self._batch)
        except UndeliverableError as error:
            self._not_taken(error, last_try)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            self._not_taken(UndeliverableError(text, permanent=True), last_try)
        else:
            with self._condition:
                if not self._given_up:
                    self.counts.sent += self._batch_count
                self._batch = []
                self._pause = 0.0

    def _not_taken(self, error: UndeliverableError, last_try: bool) -> None:
        if self._given_up:
            return
        self.counts.failures += 1
        self._on_trouble(str(error))
        with self._condition:
            if self._given_up:
                return
            if error.permanent:
                failed = self._batch_count if error.count is None else error.count
                self.counts.fail(failed, error.reason)
                self.counts.sent += self._batch_count - failed
                self._batch = []
                return
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
            if last_try:
                self.counts.fail(self.waiting, error.reason)
                self._clear()
                self._batch = []

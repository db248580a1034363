"""Shipping signals to a collector that may be slow, away or broken: bounded queues, own threads."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    attach,
    set_value,
)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

SignalName = Literal["traces", "metrics", "logs"]

#: Bytes of what waits in one queue at most, by the texts in it and :data:`ITEM_BYTES` for each.
MAX_BYTES: Final = 64 * 2**20
ITEM_BYTES: Final = 1_000
#: First and longest pause after an export that failed, in seconds.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: Closing waits so long at most for a destination that does not answer anyway, in seconds.
LAST_TRY: Final = 1.0


class UndeliverableError(Exception):
    """A batch was not taken.

    Attributes
    ----------
    permanent : bool
        It will not be taken later either: the destination has said what is wrong with it.
    """

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class Sink(Protocol[T_contra]):
    """Where batches go; every method but :meth:`shutdown` is called by the shipper's thread."""

    def send(self, batch: Sequence[T_contra]) -> None:
        """Hand over a batch; raises :class:`UndeliverableError` if it was not taken."""
        ...

    def shutdown(self) -> None:
        """Nothing comes any more; interrupts what waits. Called by any thread, never raises."""
        ...


class Limits(NamedTuple):
    """Of one queue: items that wait at most, items sent at once, seconds between two sendings."""

    capacity: int
    batch: int
    delay: float


def limits_from(
    environ: Mapping[str, str], prefix: str, capacity: int, delay: float = 5.0
) -> Limits:
    """Limits by the specification's variables (``OTEL_BSP_*``, ``OTEL_BLRP_*``).

    `capacity` is the default where the variable says nothing: larger than the specification's, as a
    recorder hands over thousands of spans at once.
    """
    delay = _number(environ, f"{prefix}_SCHEDULE_DELAY", delay * 1e3) / 1e3
    capacity = max(1, int(_number(environ, f"{prefix}_MAX_QUEUE_SIZE", capacity)))
    batch = max(1, int(_number(environ, f"{prefix}_MAX_EXPORT_BATCH_SIZE", 512)))
    return Limits(capacity, min(batch, capacity), delay)


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        number = float(environ.get(name) or default)
    except ValueError:
        return default
    return number if 0 <= number < float("inf") else default


class Counts:
    """What became of the items of one shipper; written by it, read by the recorder's thread."""

    __slots__ = ("dropped", "failed", "failures", "sent")

    def __init__(self) -> None:
        self.sent = 0
        #: Not taken by the destination, or left over at the end.
        self.failed = 0
        #: The queue was full.
        self.dropped = 0
        #: Exports that failed; a later one may have brought the same items.
        self.failures = 0


def weight_of(item: Any) -> int:
    """About how many bytes of memory a span or log record takes, by the texts in it."""
    record: Any = getattr(item, "log_record", item)
    body: Any = getattr(record, "body", None)
    weight = ITEM_BYTES + (len(body) if isinstance(body, str) else 0)
    for holder in (record, *getattr(record, "events", ())):
        for value in (getattr(holder, "attributes", None) or {}).values():
            weight += len(value) if isinstance(value, str) else 0
    return weight


class Shipper(Generic[T]):
    """Sends one kind of signal to one place, on a daemon thread of its own.

    :meth:`put` and :meth:`close` are called by the recorder's thread and never wait for the
    destination beyond their deadline. A batch that was not taken is kept and sent again, with
    growing pauses, unless the destination said that it never will be; meanwhile the queue holds
    what it can, and the oldest items are dropped and counted.

    Parameters
    ----------
    signal : {"traces", "metrics", "logs"}
        What it ships.
    sink : Sink
        Where to.
    limits : Limits
        Of the queue.
    on_trouble : callable
        Told what is wrong after an export that failed.
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
        #: Items and their weights, which add up to `_bytes`.
        self._queue: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._batch: list[T] = []
        self._condition = threading.Condition()
        self._closing = False
        self._given_up = False
        self._pause = 0.0
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Items that wait to be sent."""
        return len(self._queue) + len(self._batch)

    def put(self, items: Sequence[T]) -> None:
        """Take items; returns at once."""
        if not items:
            return
        with self._condition:
            queue = self._queue
            for item in items:
                weight = weight_of(item)
                queue.append((item, weight))
                self._bytes += weight
            while queue and (len(queue) > self._limits.capacity or self._bytes > MAX_BYTES):
                self._pop()
                self.counts.dropped += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"scalable-otlp-{self.signal}", daemon=True
                )
                self._thread.start()
            elif len(queue) >= self._limits.batch:
                self._condition.notify_all()

    def _pop(self) -> T:
        item, weight = self._queue.popleft()
        self._bytes -= weight
        return item

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
            self.counts.failed += left
            self._queue.clear()
        self._sink.shutdown()
        if left and thread is not None:
            said = log_filter.last_message(thread.ident)
            self._on_trouble(f"{left} items took too long{said and f' ({said})'}")

    def begin_close(self) -> None:
        """Begin to send what is left, without waiting; several shippers can do so at once."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()

    def _run(self) -> None:
        log_filter.capture()
        # What the exporter's own HTTP client does is nobody's request.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            while self._next_batch():
                self._send()
        finally:
            log_filter.release()

    def _next_batch(self) -> bool:
        """Wait for a batch; False once there is nothing left to do."""
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
                self._batch = [self._pop() for _ in range(count)]
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
                    self.counts.sent += len(self._batch)
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
                self.counts.failed += len(self._batch)
                self._batch = []
                return
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
            if last_try:
                self.counts.failed += self.waiting
                self._queue.clear()
                self._batch = []


class ExporterSink(Generic[T]):
    """An exporter of the SDK as a sink.

    Parameters
    ----------
    exporter
        With `export(batch)` and `shutdown()`.
    single : bool
        Its `export` takes one item and no batch: metrics.
    """

    def __init__(self, exporter: Any, *, single: bool = False) -> None:
        self._exporter = exporter
        self._single = single

    def send(self, batch: Sequence[T]) -> None:
        """Export; what the exporter logs about a failure becomes the error's text."""
        log_filter.clear()
        for unit in batch if self._single else (batch,):
            result = self._exporter.export(unit)
            # SUCCESS of every signal's result; an exporter that returns nothing took the batch.
            if result is not None and getattr(result, "value", result) != 0:
                text = log_filter.last_message() or "the exporter reports a failure"
                raise UndeliverableError(text, permanent=_is_permanent(text))

    def shutdown(self) -> None:
        """Shut the exporter down; its own complaints are of no interest any more."""
        log_filter.capture()
        try:
            self._exporter.shutdown()
        except Exception as error:
            _logger.debug("an exporter could not be shut down", exc_info=error)
        finally:
            log_filter.release()


_logger = logging.getLogger("scalable")

#: What comes back for what will never be taken: 4xx but for timeouts and "too many".
_HTTP_STATUS: Final = re.compile(r"\bcode: (\d{3})\b")
_GRPC_STATUS: Final = re.compile(r"StatusCode\.([A-Z_]+)")
_GRPC_PERMANENT: Final = frozenset(
    {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
    }
)


def _is_permanent(text: str) -> bool:
    http = _HTTP_STATUS.search(text)
    if http is not None:
        return http[1].startswith("4") and http[1] not in ("408", "429")
    grpc = _GRPC_STATUS.search(text)
    if grpc is not None:
        return grpc[1] in _GRPC_PERMANENT
    return "max_request_size" in text or "Failed to encode" in text


class ExporterLogFilter(logging.Filter):
    """Keeps exporters' own log records about our shipments from everybody, and remembers them.

    The user gets one warning of ours instead of one a batch; and no log handler can send such a
    record over the very way that is broken. It tells ours from others' by the thread. Filters of
    a logger see only what is logged there: it is put on each that the exporters use.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._threads: dict[int, int] = {}
        self._said: dict[int, str] = {}
        self._loggers: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let pass what is not ours."""
        thread = record.thread
        if thread not in self._threads:
            return True
        try:
            if record.levelno >= logging.WARNING:
                self._said[thread] = record.getMessage()
        except Exception:
            self._said[thread] = str(record.msg)
        return False

    def capture(self) -> None:
        """Silence the calling thread."""
        thread = threading.get_ident()
        with self._lock:
            self._threads[thread] = self._threads.get(thread, 0) + 1
        self._spread()

    def release(self) -> None:
        """Undo one :meth:`capture`."""
        thread = threading.get_ident()
        with self._lock:
            self._threads[thread] -= 1
            if not self._threads[thread]:
                del self._threads[thread]
                self._said.pop(thread, None)

    def clear(self) -> None:
        """Before an export: what is said from now on is about it."""
        self._said.pop(threading.get_ident(), None)
        self._spread()

    def last_message(self, thread: int | None = None) -> str:
        """What was said last in a thread, by default the calling one."""
        return self._said.get(threading.get_ident() if thread is None else thread, "")

    def _spread(self) -> None:
        """Loggers appear with the modules that an exporter imports at first use."""
        known = logging.root.manager.loggerDict
        for name in list(known):
            if name.startswith(_EXPORTERS_LOGGERS) and name not in self._loggers:
                self._loggers.add(name)
                # In front: another filter there drops what it has seen a moment ago.
                logging.getLogger(name).filters.insert(0, self)


_EXPORTERS_LOGGERS: Final = ("opentelemetry.exporter", "urllib3", "requests", "grpc", "httpx")

#: The one of this process.
log_filter: Final = ExporterLogFilter()

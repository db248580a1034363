"""Batches what a process of the cluster relays: spans, metrics and log records."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import monotonic, time
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from scalable import facts
from scalable.common.forks import let_go_in_forks
from scalable.common.otel_environment import sdk_disabled
from scalable.instrumentation.process_resource import ProcessResource
from scalable.instrumentation.relay_values import encode

#: Longest time that an item waits before it is sent, in seconds: a SIGKILL loses as much.
FLUSH_INTERVAL: Final = 0.2
#: Longest time that items wait for the detectors of the resource, in seconds: OpenTelemetry's SDK
#: gives each of them five.
HOLD_TIME: Final = 6.0
#: Bytes that wait in one process at most; beyond it new items are dropped, and counted.
MAX_WAITING: Final = 4 * 2**20
#: Bytes of one item at most.
MAX_ITEM: Final = 256 * 2**10
#: Bytes of the items that are sent as one fact, unless the first one alone is larger.
MAX_PAYLOAD: Final = 64 * 2**10


class Rate(NamedTuple):
    """A bound on the flow of one kind: items a second, and how many may come at once."""

    a_second: float
    burst: float


#: By kind of fact. A scheduler has many workers.
RATES: Final = {
    facts.RELAY_SPANS: Rate(1_000.0, 10_000.0),
    facts.RELAY_LOGS: Rate(200.0, 2_000.0),
    facts.RELAY_METRICS: Rate(2_000.0, 20_000.0),
    facts.RELAY_ATTEMPTS: Rate(1_000.0, 10_000.0),
    facts.RELAY_PARAMETERS: Rate(2_000.0, 20_000.0),
    # Bytes.
    facts.RELAY_OUTPUT: Rate(64 * 2.0**10, 4 * 2.0**20),
}

#: ``(run id or None, fact)``
Reports: TypeAlias = list[tuple[str | None, tuple[Any, ...]]]


class Source(Protocol):
    """Something that gathers what is written, until the outbox is emptied."""

    kind: int
    run: str | None

    def take(self) -> bytes | None:
        """Return an encoded item with what was written since the last call; None without one."""
        ...


class Outbox:
    """Collects items of one process for the scheduler.

    :meth:`put` is called by any thread, also from within a finalizer or a log call: it takes no
    lock, and never waits. :meth:`flush` and `send` are called by the event loop.

    `origin` returns the address of the worker that the items come from, empty for another process.
    `resource` describes the process, to which `more` attributes are added. While `is_blocked`
    returns True, earlier reports are still being sent: more would wait in a queue without a bound.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Callable[[], str],
        send: Callable[[Reports], None],
        resource: ProcessResource,
        more: Mapping[str, Any] | None = None,
        is_blocked: Callable[[], bool] = bool,
    ) -> None:
        self._is_disabled = sdk_disabled(os.environ)
        self._is_blocked = is_blocked
        self._loop = loop
        self._origin = origin
        self._send = send
        self._resource = resource
        self._more = more or {}
        #: When items first had to wait for the detectors of the resource.
        self._held_since: float | None = None
        self._items: deque[tuple[int, str | None, bytes]] = deque()
        self._bytes = 0
        #: What has something to take.
        self._noted: deque[Source] = deque()
        #: A flush is scheduled; for others to read.
        self.waiting = False
        self._closed = False
        self._dropped: dict[tuple[int, str | None], _Tally] = {}
        self._tokens = {kind: (rate.burst, monotonic()) for kind, rate in RATES.items()}
        let_go_in_forks(self)

    def put(self, kind: int, run: str | None, item: bytes) -> None:
        """Take an encoded item, or count it as dropped."""
        if not self._closed:
            self._keep(kind, run, item)
            self._arm()

    def _keep(self, kind: int, run: str | None, item: bytes) -> None:
        size = len(item)
        cost = size if kind == facts.RELAY_OUTPUT else 1
        if size > MAX_ITEM or self._bytes + size > MAX_WAITING or not self._take(kind, cost):
            self._count(kind, run, 1)
        else:
            self._bytes += size
            self._items.append((kind, run, item))

    @property
    def takes_spans(self) -> bool:
        """Whether what is written to the spans of attempts is recorded."""
        return not self._closed and not self._is_disabled

    def note(self, source: Source) -> None:
        """Something was written: `source` is asked for it when the outbox is emptied."""
        if not self._closed:
            self._noted.append(source)
            self._arm()

    def drop(self, kind: int, run: str | None, count: int) -> None:
        """Count items that are left out."""
        if not self._closed:
            self._count(kind, run, count)
            self._arm()

    def _count(self, kind: int, run: str | None, count: int) -> None:
        # Two threads that make a tally at once get the same one.
        self._dropped.setdefault((kind, run), _Tally()).add(count)

    def _arm(self) -> None:
        if not self.waiting:
            self.waiting = True
            try:
                self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_INTERVAL, self.flush)
            except RuntimeError:  # the loop is closed: the process ends
                self._closed = True

    def flush(self) -> None:
        """Send what waits; if that is blocked, or the resource is not known yet, try later."""
        if not self._closed and self._is_held():
            if self._noted:
                self.send_now(facts.RELAY_OUTPUT)
            self._loop.call_later(FLUSH_INTERVAL, self.flush)
        elif not self._closed and self._is_blocked():
            self._loop.call_later(FLUSH_INTERVAL, self.flush)
        else:
            self._flush()

    def send_now(self, kind: int) -> None:
        """Send what waits of one kind, as the scheduler may forget its task after the next message.

        Its :data:`RATES` alone bound what may wait in the stream then.
        """
        waiting = self.waiting
        self._flush(kind)
        # A flush is still scheduled.
        self.waiting = waiting

    def _is_held(self) -> bool:
        """The resource's detectors are still running, and may for a while."""
        if self._resource.is_complete:
            return False
        now = monotonic()
        if self._held_since is None:
            self._held_since = now
            # The scheduler asks a worker that measures for what it has before a run ends.
            empty = (facts.RELAY_METRICS, time(), self._origin(), 0, b"", 0)
            self._send([(None, empty)])
        return now - self._held_since < HOLD_TIME

    def _flush(self, only: int | None = None) -> None:
        reports = self.empty(only)
        if reports:
            self._send(reports)

    def empty(self, only: int | None = None) -> Reports:
        """Remove what waits, if `only` is given that of one kind, and return it as reports."""
        self.waiting = False
        while self._noted:
            source = self._noted.popleft()
            item = source.take()
            if item is not None:
                self._keep(source.kind, source.run, item)
        batches: dict[tuple[int, str | None], list[bytes]] = {}
        later: list[tuple[int, str | None, bytes]] = []
        while self._items:
            kind, run, item = self._items.popleft()
            if only in (None, kind):
                batches.setdefault((kind, run), []).append(item)
            else:
                later.append((kind, run, item))
        self._items.extendleft(reversed(later))
        # Threads add to the sum without a lock: set it, so that its errors do not add up.
        self._bytes = sum(len(item) for _, _, item in later)
        dropped = {of: tally.take() for of, tally in list(self._dropped.items())}
        now = time()
        resource = encode({**self._resource.attributes(), **self._more}) if batches else b""
        reports: Reports = []
        for kind, run in batches.keys() | {of for of, count in dropped.items() if count}:
            count = dropped.get((kind, run), 0)
            for items in _in_parts(batches.get((kind, run), [])):
                payload = b'{"resource":%b,"items":[%b]}' % (resource or b"{}", b",".join(items))
                reports.append((run, (kind, now, self._origin(), len(items), payload, count)))
                count = 0
        return reports

    def close(self) -> None:
        """Send what waits, take nothing more."""
        self._flush()
        self._closed = True

    def after_fork(self) -> None:
        """Take nothing more in a forked process, where the loop does not run."""
        self._closed = True
        self._items.clear()
        self._noted.clear()

    def _take(self, kind: int, cost: int) -> bool:
        # Two threads may take the same token: the bound on the flow is not exact.
        rate = RATES[kind]
        tokens, since = self._tokens[kind]
        now = monotonic()
        tokens = min(rate.burst, tokens + (now - since) * rate.a_second)
        is_enough = tokens >= cost
        self._tokens[kind] = (tokens - cost if is_enough else tokens, now)
        return is_enough


def _in_parts(items: list[bytes]) -> Iterator[list[bytes]]:
    """Parts of at most :data:`MAX_PAYLOAD` bytes or one item; one part if there is no item."""
    start = size = 0
    for number, item in enumerate(items):
        if number > start and size + len(item) > MAX_PAYLOAD:
            yield items[start:number]
            start, size = number, 0
        size += len(item)
    yield items[start:]


class _Tally:
    """An exact count; any thread adds to it without a lock, and the loop reads it.

    ``+=`` on a number would lose what another thread adds meanwhile; a step of an iterator written
    in C is atomic.
    """

    def __init__(self) -> None:
        self._steps = itertools.count()
        self._taken = 0

    def add(self, number: int) -> None:
        """Count `number` more."""
        deque(itertools.islice(self._steps, number), maxlen=0)

    def take(self) -> int:
        """What was added since the last call."""
        new = next(self._steps) - self._taken
        self._taken += new + 1  # without the step just made
        return new

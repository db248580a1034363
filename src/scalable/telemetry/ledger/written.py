"""What the code of tasks writes to the spans of its attempts, until these end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from opentelemetry.sdk.trace import Event
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from scalable import facts
from scalable.facts.relay_items import AttemptItem, EventItem, LinkItem
from scalable.telemetry.ledger.named_frames import with_names
from scalable.telemetry.ledger.task import Task
from scalable_runs.otel.additions import Additions
from scalable_runs.redact import Redactor

#: Bytes of what is kept for one attempt, and for all that run, at most.
MAX_WRITTEN: Final = 256 * 2**10
MAX_KEPT: Final = 16 * 2**20


class WrittenSpans:
    """Keeps what was written to running attempts; called by the recorder's thread only."""

    def __init__(self, tasks: Mapping[str, Task], redact: Redactor) -> None:
        self._tasks = tasks
        self._redact = redact
        #: By task and Dask's number of the attempt.
        self.kept: dict[tuple[str, int], Additions] = {}
        self._sizes: dict[tuple[str, int], int] = {}
        self._bytes = 0
        #: Items that came too late or were too many.
        self.dropped = 0

    def take(self, fact: facts.RelayBatch) -> None:
        """Add what a process relays."""
        self.dropped += fact.dropped
        items: list[AttemptItem] = orjson.loads(fact.payload)["items"] if fact.number else []
        for item in items:
            key, run_id = item["task"], item["run_id"]
            task = self._tasks.get(key)
            ended = task is not None and (
                run_id < task.run_id or (run_id == task.run_id and not task.running)
            )
            if ended:
                self.dropped += 1
            else:
                self._add((key, run_id), item)

    def pop(self, task: Task) -> Additions | None:
        """Remove and return what was written to the attempt of a task; None if nothing was.

        Entries of baggage that are attributes are part of it.
        """
        of = task.key, task.run_id
        self._bytes -= self._sizes.pop(of, 0)
        added = self.kept.pop(of, None)
        if task.labels:
            added = added or Additions()
            added.attributes = {**task.labels, **added.attributes}
        return added

    def _add(self, of: tuple[str, int], item: AttemptItem) -> None:
        added = self.kept.setdefault(of, Additions())
        redact = self._redact
        if "name" in item:
            added.name = redact.short(item["name"])
        if "attributes" in item:
            added.attributes = redact.attributes(item["attributes"])
        added.events += events_of(item["events"], redact)
        added.links += links_of(item["links"], redact)
        for newest, number in zip((added.events, added.links), item["kept"], strict=True):
            del newest[: len(newest) - number]
        code, description = item["status"]
        if code:
            text = None if description is None else redact(description)
            added.status = Status(StatusCode(code), text)
        dropped: Any = tuple(item["dropped"])
        added.dropped = dropped
        self._bound(of, added)

    def _bound(self, of: tuple[str, int], added: Additions) -> None:
        size = _size(added)
        while size > MAX_WRITTEN and (added.events or added.links):
            for newest in (added.events, added.links):
                older = -(-len(newest) // 2)
                self.dropped += older
                del newest[:older]
            size = _size(added)
        self._bytes += size - self._sizes.get(of, 0)
        self._sizes[of] = size
        while self._bytes > MAX_KEPT:
            oldest = next(iter(self._sizes))
            self._bytes -= self._sizes.pop(oldest)
            del self.kept[oldest]
            self.dropped += 1


def _size(added: Additions) -> int:
    """Bytes of texts and values, as JSON."""
    events = [(event.name, dict(event.attributes or {})) for event in added.events]
    links = [dict(link.attributes or {}) for link in added.links]
    return len(orjson.dumps((added.attributes, events, links), default=str))


def events_of(items: list[EventItem], redact: Redactor) -> list[Event]:
    """Events of a span."""
    return [
        Event(redact.short(name), redact.attributes(with_names(given)), time)
        for name, time, given in items
    ]


def links_of(items: list[LinkItem], redact: Redactor) -> list[Link]:
    """Links of a span."""
    return [
        Link(
            SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(flags)),
            redact.attributes(given),
        )
        for trace, span, flags, given in items
    ]

"""The span of an attempt, as the code of its task sees it.

The recorder makes the span, when the attempt has ended. What the code writes to it before is kept
here in a span of the SDK, which validates and limits it, and travels with what the process relays:
when the attempt ends, and while it runs each time that the outbox is emptied.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, SpanContext, get_current_span

from scalable import facts
from scalable.common.forks import no_fork, unlocked_in_forks
from scalable.common.guard import Guard
from scalable.common.otel_environment import usable_environment
from scalable.facts.identity import attempt_span_id, carried
from scalable.facts.relay_items import AttemptItem
from scalable.instrumentation.relay_values import attributes_of, encode, event_items, link_items

#: Errors of this module, in any run of the process.
guard: Final = Guard()

#: Held while a span is written to or read. One for all: it is held for microseconds.
_lock: Final = unlocked_in_forks(threading.RLock())


class RunningAttempt(Protocol):
    """What is known of an attempt where its code runs."""

    run_id: int
    carrier: str | None
    #: How far the scheduler's clock is ahead, in seconds.
    ahead: float
    #: Takes what the code of the attempt records.
    outbox: Any
    #: Its code opened spans that the process exports itself.
    exports: bool
    #: Submissions of its code that further graphs may join; None before the first one.
    submissions: dict[Any, Any] | None
    #: What it was called with, if it failed.
    parameters: bytes

    @property
    def key(self) -> str:
        """The task."""
        ...


def run_of(attempt: RunningAttempt | None) -> str | None:
    """Id of the run of an attempt; None if it has none, or an unknown one."""
    return carried(attempt.carrier).get("run") if attempt is not None else None


class AttemptSpan(Span):
    """The current span in the code of a task; used by any thread that has its context.

    Made in the thread of the task. It has the ids of the span that the recorder makes, which are
    computed only if the code asks for them, and it costs nothing more until the code writes to it.
    """

    _written: WrittenSpan | None = None

    def __init__(self, attempt: RunningAttempt, parent: Context) -> None:
        self.scalable_attempt = attempt
        self._above = parent

    @property
    def parent(self) -> SpanContext | None:
        """The span above it: some propagators ask a span for its parent, as the SDK's have one."""
        parent = get_current_span(self._above).get_span_context()
        return parent if parent.is_valid else None

    def get_span_context(self) -> SpanContext:
        """Ids of the attempt, with flags and state of the trace that its task came with."""
        attempt = self.scalable_attempt
        carrier = attempt.carrier
        parent = self.parent
        if carrier is None or parent is None:
            return INVALID_SPAN_CONTEXT
        run = str(carried(carrier).get("run"))
        span_id = attempt_span_id(run, attempt.key, attempt.run_id)
        return SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state)

    def is_recording(self) -> bool:
        """Whether what is written to it is recorded: as long as the attempt runs."""
        attempt = self.scalable_attempt
        outbox = attempt.outbox
        # A thread that ran it has measured its CPU time at its end.
        ended = getattr(attempt, "cpu", None) is not None
        return outbox is not None and outbox.takes_spans and not ended

    def set_attributes(self, attributes: Any) -> None:
        """Set attributes of the attempt's span."""
        self._write("set_attributes", attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of the attempt's span."""
        self._write("set_attribute", key, value)

    def add_event(self, *args: Any, **kwargs: Any) -> None:
        """Add an event to the attempt's span."""
        self._write("add_event", *args, **kwargs)

    def add_link(self, *args: Any, **kwargs: Any) -> None:
        """Add a link to the attempt's span."""
        self._write("add_link", *args, **kwargs)

    def update_name(self, name: str) -> None:
        """Rename the attempt's span; the task keeps its name."""
        self._write("update_name", name)

    def set_status(self, *args: Any, **kwargs: Any) -> None:
        """Set the status that the attempt's span has if the attempt does not fail."""
        self._write("set_status", *args, **kwargs)

    def record_exception(self, *args: Any, **kwargs: Any) -> None:
        """Add an event about an exception that the code has handled."""
        self._write("record_exception", *args, **kwargs)

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the attempt's span ends with the attempt."""

    def _write(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self.is_recording():
            try:
                with _lock:
                    if self._written is None:
                        self._written = WrittenSpan(self.scalable_attempt)
                    self._written.write(method, *args, **kwargs)
            except BaseException as error:
                guard.failed("attempt_span", error)


class WrittenSpan:
    """What code has written to the span of its attempt; all under the module's lock.

    :meth:`write` is called by the threads of the task, :meth:`take` by whichever empties the
    outbox.
    """

    kind: Final = facts.RELAY_ATTEMPTS

    def __init__(self, attempt: RunningAttempt) -> None:
        # A process forked during the import would wait for ever for its end.
        with no_fork, usable_environment():
            from scalable.instrumentation.relay_sdk import unsent_span

        self._span = unsent_span()
        self._attempt = attempt
        self.run = run_of(attempt)
        #: The outbox knows that there is something to take.
        self._is_noted = False
        # What the recorder knows.
        self._name: str = self._span.name
        self._attributes: dict[str, Any] = {}
        self._events = self._links = 0

    def write(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of the span."""
        getattr(self._span, method)(*args, **kwargs)
        if not self._is_noted:
            self._is_noted = True
            self._attempt.outbox.note(self)

    def take(self) -> bytes | None:
        """What was written since the last call; None if it cannot be read."""
        try:
            with _lock:
                self._is_noted = False
                return encode(self._item())
        except BaseException as error:
            guard.failed("attempt_span", error)
            return None

    def _item(self) -> AttemptItem:
        span, shift = self._span, int(self._attempt.ahead * 1e9)
        events, links = span.events, span.links
        new_events = len(events) + span.dropped_events - self._events
        new_links = len(links) + span.dropped_links - self._links
        item: AttemptItem = {
            "task": self._attempt.key,
            "run_id": self._attempt.run_id,
            "events": event_items(events[max(0, len(events) - new_events) :], shift),
            "links": link_items(links[max(0, len(links) - new_links) :]),
            "kept": (len(events), len(links)),
            "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
            "status": (span.status.status_code.value, span.status.description),
        }
        attributes = dict(span.attributes)
        if attributes != self._attributes:
            self._attributes = attributes
            item["attributes"] = attributes_of(attributes)
        if span.name != self._name:
            item["name"] = span.name
        self._events += new_events
        self._links += new_links
        return item

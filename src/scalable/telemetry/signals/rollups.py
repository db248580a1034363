"""Spans that represent others over OTLP: rollups of attempts, and stand-ins for missing parents."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, StatusCode

from scalable.facts.identity import ATTEMPT, SUBMISSION, attempt_span_id
from scalable.telemetry import semconv
from scalable.telemetry.instrument import TASK_BOUNDS
from scalable.telemetry.signals.spans import NANOSECONDS, SpanFactory

#: Bucket bounds of a rollup's histogram, in seconds: a few of the metrics'.
ROLLUP_BOUNDS: Final = TASK_BOUNDS[::3]

_NAMES: Final = {ATTEMPT: "attempt", SUBMISSION: "submit"}


@dataclass(slots=True)
class Rollup:
    """Sums of the attempts of one task name that are left out."""

    parent: SpanContext | None
    count: int = 0
    failed: int = 0
    total: float = 0.0
    low: float = inf
    high: float = 0.0
    first: float = inf
    last: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(ROLLUP_BOUNDS) + 1))

    def is_below(self, parent: SpanContext | None) -> bool:
        """Whether a span is its parent."""
        if self.parent is None or parent is None:
            return self.parent is parent
        return self.parent.span_id == parent.span_id

    def add(self, span: ReadableSpan) -> None:
        """Add an attempt."""
        started = (span.start_time or 0) / NANOSECONDS
        ended = (span.end_time or 0) / NANOSECONDS
        duration = duration_of(span)
        self.count += 1
        self.failed += has_failed(span)
        self.total += duration
        self.low = min(self.low, duration)
        self.high = max(self.high, duration)
        self.first = min(self.first, started)
        self.last = max(self.last, ended)
        self.buckets[bisect_left(ROLLUP_BOUNDS, duration)] += 1


@dataclass(slots=True)
class Due:
    """A span that has to come because a child of it was sent."""

    kind: str
    #: Span above it, as far as known; 0 for unknown.
    above: int = 0
    name: str = ""
    #: Times of its children, in nanoseconds.
    first: int = 0
    last: int = 0

    def note(self, first: int, last: int) -> None:
        """Note the times of a child that was sent."""
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)


def rollup_number(run: str, trace_id: int, settled: int, name: str) -> int:
    """Span id of a rollup; `settled` is how often its trace was settled before."""
    return attempt_span_id(run, f"rollup {trace_id:032x} {name}", settled)


def rollup_span(factory: SpanFactory, ids: SpanContext, name: str, rollup: Rollup) -> ReadableSpan:
    """The span of a rollup."""
    return factory.span(
        semconv.SPAN_ROLLUP.format(name=name),
        ids,
        rollup.parent,
        rollup.first,
        rollup.last,
        {
            semconv.TASK_NAME: name,
            semconv.ROLLUP_COUNT: rollup.count,
            semconv.ROLLUP_FAILED: rollup.failed,
            semconv.ROLLUP_SUM: round(rollup.total, 6),
            semconv.ROLLUP_MIN: round(rollup.low, 6),
            semconv.ROLLUP_MAX: round(rollup.high, 6),
            semconv.ROLLUP_BOUNDS: ROLLUP_BOUNDS,
            semconv.ROLLUP_BUCKETS: tuple(rollup.buckets),
        },
    )


def stand_in_span(
    factory: SpanFactory, ids: SpanContext, parent: SpanContext | None, due: Due
) -> ReadableSpan:
    """A span in the place of one that was not received, so that its children have a parent.

    Its times are those of its children.
    """
    name = due.name or _NAMES.get(due.kind, "span")
    return factory.span(
        semconv.SPAN_STAND_IN.format(name=name),
        ids,
        parent,
        due.first / NANOSECONDS,
        due.last / NANOSECONDS,
        {semconv.STAND_IN: True},
    )


def with_links(span: ReadableSpan, links: Sequence[Link]) -> ReadableSpan:
    """A span with some of its links only, which says how many are left out."""
    left_out = len(span.links) - len(links)
    if not left_out:
        return span
    changed: Any = copy.copy(span)
    changed._links = links
    changed._attributes = {**(span.attributes or {}), semconv.TASK_LINKS_LEFT_OUT: left_out}
    return changed


def task_name_of(span: ReadableSpan) -> str:
    """Name of the task of an attempt, whose code may have renamed the span."""
    return str((span.attributes or {}).get(semconv.TASK_NAME, span.name))


def has_failed(span: ReadableSpan) -> bool:
    """Whether an attempt failed or was lost."""
    return span.status.status_code is StatusCode.ERROR


def duration_of(span: ReadableSpan) -> float:
    """Seconds of an attempt's execution."""
    duration: Any = (span.attributes or {}).get(semconv.TASK_DURATION)
    if duration is None:
        return ((span.end_time or 0) - (span.start_time or 0)) / NANOSECONDS
    return duration

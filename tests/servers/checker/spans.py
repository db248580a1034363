"""Rules on spans and on what refers to them: ids, parents, times, links, exemplars, log records."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from scalable.telemetry import semconv
from servers.checker.model import (
    ROUNDING,
    Finding,
    Item,
    Received,
    is_asynchronous,
    is_attempt,
    is_own,
    shown,
)

SAMPLED = 0x01
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")


def ids_are_valid_and_unique(received: Received) -> Iterator[Finding]:
    """Each span has a valid id of its own."""
    counts = Counter(span["span_id"] for span in received.spans)
    for span in received.spans:
        if not (_TRACE_ID.fullmatch(span["trace_id"]) and _SPAN_ID.fullmatch(span["span_id"])):
            yield Finding("ids", shown(span), f"not a valid id, in trace {span['trace_id']!r}")
    for span_id, count in counts.items():
        if count > 1:
            subject = shown(received.by_id[span_id])
            yield Finding("ids", subject, f"received {count} times")


def parents_exist(received: Received) -> Iterator[Finding]:
    """The parent of each span was received, in the same trace, or is known to be elsewhere."""
    for span in received.spans:
        parent = span["parent_span_id"]
        if not parent or parent in received.outside:
            continue
        found = received.by_id.get(parent)
        if found is None:
            yield Finding("parents", shown(span), f"its parent {parent} was not received")
        elif found["trace_id"] != span["trace_id"]:
            yield Finding("parents", shown(span), f"{shown(found)} is of another trace")


def a_trace_has_one_root(received: Received) -> Iterator[Finding]:
    """No trace has two spans without a parent."""
    roots: defaultdict[str, list[Item]] = defaultdict(list)
    for span in received.spans:
        if not span["parent_span_id"]:
            roots[span["trace_id"]].append(span)
    for trace_id, spans in roots.items():
        if len(spans) > 1:
            others = ", ".join(shown(span) for span in spans[1:4])
            yield Finding("roots", shown(spans[0]), f"trace {trace_id} has other roots: {others}")


def times_nest(received: Received) -> Iterator[Finding]:
    """Each span lies within its parent's time, on one host to the microsecond.

    Attempts, and what stands for them (rollups, spans of running attempts), are asynchronous by
    their nature: they begin within the span that asked for them, and may outlive it; so may
    everything below a PRODUCER.
    """
    for span in received.spans:
        if span["end"] < span["start"]:
            yield Finding(
                "times", shown(span), f"ends {_ms(span['start'] - span['end'])} before it starts"
            )
        parent = received.by_id.get(span["parent_span_id"])
        if parent is None:
            continue
        early = parent["start"] - span["start"]
        if early > ROUNDING:
            yield Finding("times", shown(span), f"starts {_ms(early)} before {shown(parent)}")
        late = span["end"] - parent["end"]
        if late > ROUNDING and not (is_asynchronous(span) or parent["kind"] == "producer"):
            yield Finding("times", shown(span), f"ends {_ms(late)} after {shown(parent)}")


def events_lie_within_their_span(received: Received) -> Iterator[Finding]:
    """Each event of a span is between its start and its end."""
    for span in received.spans:
        for event in span["events"]:
            outside = max(span["start"] - event["time"], event["time"] - span["end"])
            if outside > ROUNDING:
                name = event["name"]
                yield Finding("events", shown(span), f"{name} is {_ms(outside)} outside of it")


def attempts_lie_within_their_worker(received: Received) -> Iterator[Finding]:
    """An attempt begins while its worker lives, if the worker has a span."""
    workers = {
        span["attributes"][semconv.WORKER_ADDRESS]: span
        for span in received.spans
        if _is_worker(span)
    }
    for span in received.attempts:
        worker = workers.get(span["attributes"].get(semconv.WORKER_ADDRESS))
        if worker is None:
            continue
        outside = max(worker["start"] - span["start"], span["start"] - worker["end"])
        if outside > ROUNDING:
            message = f"starts {_ms(outside)} outside of {shown(worker)}"
            yield Finding("workers", shown(span), message)


def attempts_follow_each_other(received: Received) -> Iterator[Finding]:
    """An attempt of a task begins after the one before has ended; their numbers differ."""
    by_task: defaultdict[str, list[Item]] = defaultdict(list)
    for span in received.attempts:
        by_task[span["attributes"][semconv.TASK_KEY]].append(span)
    for spans in by_task.values():
        spans.sort(key=lambda span: span["attributes"][semconv.TASK_ATTEMPT])
        for before, after in pairwise(spans):
            number = after["attributes"][semconv.TASK_ATTEMPT]
            if before["attributes"][semconv.TASK_ATTEMPT] == number:
                yield Finding("attempts", shown(after), f"a second attempt {number} of its task")
            early = before["end"] - after["start"]
            if early > ROUNDING:
                message = f"starts {_ms(early)} before {shown(before)} ended"
                yield Finding("attempts", shown(after), message)


def links_lead_somewhere(received: Received) -> Iterator[Finding]:
    """Each link refers to a span that was received."""
    for span in received.spans:
        for link in span["links"]:
            message = _dangling(received, link)
            if message:
                yield Finding("links", shown(span), message)


def trace_state_is_passed_on(received: Received) -> Iterator[Finding]:
    """A span has its parent's trace state; a consumer or child does not change it."""
    for span in received.spans:
        parent = received.by_id.get(span["parent_span_id"])
        if parent is not None and parent["trace_state"] != span["trace_state"]:
            message = f"has {span['trace_state']!r}, its parent {parent['trace_state']!r}"
            yield Finding("tracestate", shown(span), message)


def exemplars_lead_somewhere(received: Received) -> Iterator[Finding]:
    """Each exemplar refers to a span that was received."""
    seen: set[tuple[str, str]] = set()
    for point in received.points:
        for exemplar in point["exemplars"]:
            message = exemplar["span_id"] and _dangling(received, exemplar)
            if message and (point["name"], exemplar["span_id"]) not in seen:
                seen.add((point["name"], exemplar["span_id"]))
                yield Finding("exemplars", shown(point), message)


def log_records_have_their_span(received: Received) -> Iterator[Finding]:
    """The span of a log record was received, unless the record's flags say it was not sampled.

    Records of tasks are sent at once: it may be undecided whether their spans will be.
    """
    for record in received.records:
        if record["span_id"] and record["flags"] & SAMPLED:
            message = _dangling(received, record)
            if message:
                yield Finding("log records", shown(record), message)
        elif record["span_id"] in received.by_id and semconv.TASK_KEY not in record["attributes"]:
            yield Finding("log records", shown(record), "not sampled, but its span was sent")
        elif record["span_id"] and not record["trace_id"]:
            yield Finding("log records", shown(record), "a span id without a trace id")


def attempts_say_what_they_are(received: Received) -> Iterator[Finding]:
    """Each attempt has key, name, number, result; one that is an error says which."""
    needed = (
        semconv.TASK_KEY,
        semconv.TASK_NAME,
        semconv.TASK_ATTEMPT,
        semconv.TASK_RESULT,
        semconv.WORKER_ADDRESS,
    )
    for span in received.attempts:
        for name in needed:
            if span["attributes"].get(name) in (None, ""):
                yield Finding("attributes", shown(span), f"has no {name}")
        is_error = span["status"] == "error"
        if is_error != (semconv.ERROR_TYPE in span["attributes"]):
            message = f"status {span['status']}, {semconv.ERROR_TYPE} is "
            message += repr(span["attributes"].get(semconv.ERROR_TYPE))
            yield Finding("attributes", shown(span), message)


RULES = (
    ids_are_valid_and_unique,
    parents_exist,
    a_trace_has_one_root,
    times_nest,
    events_lie_within_their_span,
    attempts_lie_within_their_worker,
    attempts_follow_each_other,
    links_lead_somewhere,
    trace_state_is_passed_on,
    exemplars_lead_somewhere,
    log_records_have_their_span,
    attempts_say_what_they_are,
)


def _dangling(received: Received, ids: Item) -> str | None:
    """What is wrong with a reference to a span; None if it is right."""
    span_id = ids["span_id"]
    if span_id in received.outside:
        return None
    span = received.by_id.get(span_id)
    if span is None:
        return f"refers to span {span_id}, which was not received"
    if span["trace_id"] != ids["trace_id"]:
        return f"refers to {shown(span)} by another trace {ids['trace_id']}"
    return None


def _is_worker(span: Item) -> bool:
    name = semconv.SPAN_WORKER.format(name="")
    return is_own(span) and not is_attempt(span) and span["name"].startswith(name)


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f} ms"

"""Rules that hold what was received against the directory of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from scalable.telemetry import instruments, semconv
from scalable_runs.schema import TASKS
from servers.checker.metrics import streams, total
from servers.checker.model import Finding, Item, Received, Run, is_own, shown

_ENDED = ("retried", "lost", "succeeded", "failed", "cancelled")
_ERRORS = ("failed", "retried", "lost")


def attempts(run: Run) -> dict[str, Item]:
    """The last line of every attempt in the directory, by span id."""
    return {
        record["span_id"]: dict(record)
        for record in run.reader.records(TASKS)
        if "span_id" in record and record["state"] in _ENDED and record.get("attempt")
    }


def spans_are_those_of_the_directory(received: Received, run: Run) -> Iterator[Finding]:
    """Each attempt that was sent is one of the directory, with its ids, key and outcome."""
    lines = attempts(run)
    for span in received.attempts:
        line = lines.get(span["span_id"])
        if line is None:
            yield Finding("directory", shown(span), "the directory has no such attempt")
            continue
        wanted = {
            "trace_id": (span["trace_id"], line["trace_id"]),
            "parent": (span["parent_span_id"], line.get("parent_span_id", "")),
            "key": (span["attributes"].get(semconv.TASK_KEY), line["task_id"]),
            "attempt": (span["attributes"].get(semconv.TASK_ATTEMPT), line["attempt"]),
            "error": (span["status"] == "error", line["state"] in _ERRORS),
        }
        for name, (sent, written) in wanted.items():
            if sent != written:
                yield Finding("directory", shown(span), f"{name}: sent {sent}, written {written}")


def every_attempt_is_accounted_for(received: Received, run: Run) -> Iterator[Finding]:
    """Attempts sent and attempts that rollups stand for are all attempts, also of each name."""
    sent = Counter(span["attributes"].get(semconv.TASK_NAME) for span in received.attempts)
    for span in received.rollups:
        values = span["attributes"]
        sent[values[semconv.TASK_NAME]] += values[semconv.ROLLUP_COUNT]
        if sum(values[semconv.ROLLUP_BUCKETS]) != values[semconv.ROLLUP_COUNT]:
            yield Finding("rollups", shown(span), "its buckets do not add up to its count")
    written = Counter(line["task_name"] for line in attempts(run).values())
    if sent != written:
        yield Finding("attempts", "all spans", f"sent {dict(sent)}, written {dict(written)}")


def the_root_says_what_was_sent(received: Received, run: Run) -> Iterator[Finding]:
    """The run has one root span, whose counts are right."""
    roots = [
        span
        for span in received.spans
        if is_own(span)
        and span["trace_id"] == run.reader.document["trace_id"]
        and semconv.SPANS_SENT in span["attributes"]
    ]
    if len(roots) != 1:
        yield Finding("root", f"run {run.reader.path.name}", f"has {len(roots)} root spans")
        return
    values = roots[0]["attributes"]
    summarized = sum(span["attributes"][semconv.ROLLUP_COUNT] for span in received.rollups)
    for name, counted in (
        (semconv.SPANS_SENT, len(received.attempts)),
        (semconv.SPANS_SUMMARIZED, summarized),
    ):
        if values.get(name, 0) != counted:
            yield Finding("root", shown(roots[0]), f"{name}={values.get(name, 0)}, not {counted}")


def sums_are_those_of_the_summary(received: Received, run: Run) -> Iterator[Finding]:
    """The metrics of tasks and workers end with the numbers of the run's summary."""
    counts, timing = run.summary["counts"], run.summary["timing"]
    wanted: dict[str, Any] = {
        instruments.TASK_ATTEMPTS.name: counts["attempts"],
        instruments.TASK_RETRIES.name: counts["tasks_retried"] + counts["tasks_lost"],
        instruments.WORKER_LOST.name: counts["workers_lost"],
        instruments.TASK_DURATION.name: timing["task_duration_count"],
    }
    states = {
        "waiting": 0,
        "running": 0,
        "succeeded": counts["tasks_succeeded"],
        "failed": counts["tasks_failed"],
        "cancelled": counts["tasks_cancelled"],
    }
    found: Counter[str] = Counter()
    found_states: Counter[str] = Counter()
    for points in streams(received).values():
        point = points[-1]
        if not is_own(point):
            continue
        found[point["name"]] += total(points)
        if point["name"] == instruments.TASK_COUNT.name:
            found_states[point["attributes"][semconv.TASK_STATE]] += total(points)
    for name, number in wanted.items():
        if found[name] != number:
            yield Finding("sums", f"metric {name}", f"adds up to {found[name]}, not {number}")
    for state, number in states.items():
        if found_states[state] != number:
            subject = f"metric {instruments.TASK_COUNT.name}, {state}"
            yield Finding("sums", subject, f"ends with {found_states[state]}, not {number}")


def events_are_those_of_the_directory(received: Received, run: Run) -> Iterator[Finding]:
    """The run's start was sent once, and each change of a worker's state."""
    names = Counter(record["event_name"] for record in received.records if is_own(record))
    wanted = {
        semconv.EVENT_RUN: 1,
        semconv.EVENT_WORKER: run.summary["counts"]["worker_events"],
    }
    for name, number in wanted.items():
        if names[name] != number:
            yield Finding("log records", f"event {name}", f"sent {names[name]}, not {number}")


def nothing_was_lost(received: Received, run: Run) -> Iterator[Finding]:
    """The run says itself that nothing was dropped, and that nothing went wrong."""
    said = run.reader.document.get("telemetry", {})
    for name in ("dropped", "errors", "not_sent"):
        if said.get(name):
            yield Finding("telemetry", f"run {run.reader.path.name}", f"{name}: {said[name]}")


RULES = (
    spans_are_those_of_the_directory,
    every_attempt_is_accounted_for,
    the_root_says_what_was_sent,
    sums_are_those_of_the_summary,
    events_are_those_of_the_directory,
    nothing_was_lost,
)

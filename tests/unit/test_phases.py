"""Phases of attempts: their spans lie within the attempt, whatever times Dask reports."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from scalable import facts
from scalable.common.guard import Guard
from scalable.instrumentation import dask_compat
from scalable.telemetry import semconv
from scalable.telemetry.ledger import Ledger
from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.signals.spans import nanoseconds, span_context
from scalable_runs.otel.encode import encode_spans
from scalable_runs.redact import Redactor

START, STOP = 1_000.0, 1_001.0


def spans_of(*phases: facts.Phase, fails: bool = False, ran: float | None = START):
    """The span of an attempt with these phases, and theirs by name."""
    guard = Guard()
    ledger = Ledger(
        "run-1", span_context(1, 1), Resource({}), provider="test", redact=Redactor(), guard=guard
    )
    if fails:
        stop = None if ran is None else STOP
        end: Any = facts.Failed(
            *(facts.FAILED, STOP, "inc-1", 1, "tcp://a:1", ran, stop, 999.0, phases),
            *("ValueError", "no", "Traceback", 0.1, False),
        )
    else:
        end = facts.Succeeded(
            *(facts.SUCCEEDED, STOP + 0.1, "inc-1", 1, "tcp://a:1", START, STOP, 999.0, phases),
            *(8, "int", 0.1),
        )
    ledger.take(
        [
            facts.Submitted(facts.SUBMITTED, 999.0, "inc-1", "inc", None, (), 0, None, False),
            facts.Started(facts.STARTED, START, "inc-1", 1, "tcp://a:1"),
            end,
        ],
        STOP + 1,
    )
    assert not guard.errors
    spans = [span for batch in ledger.sink.drain().batches for span in batch.spans]
    (attempt,) = [span for span in spans if semconv.TASK_KEY in (span.attributes or {})]
    return attempt, {span.name: span for span in spans if span is not attempt}


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time
    assert span.end_time
    return span.start_time, span.end_time


def record_of(span: ReadableSpan) -> dict[str, Any]:
    (record,) = encode_spans([span], RECORD_MAP)["tasks.jsonl"]
    return dict(record)


@pytest.mark.parametrize("fails", [False, True])
def test_a_transfer_whose_time_is_of_another_reading_ends_with_its_attempt(fails: bool):
    attempt, phases = spans_of(("transfer", START - 0.2, STOP + 0.0047), fails=fails)
    assert times(attempt) == (nanoseconds(START - 0.2), nanoseconds(STOP))
    assert times(phases["transfer"]) == times(attempt)
    # What was measured stays as it was.
    attributes = phases["transfer"].attributes or {}
    assert attributes[semconv.PHASE_DURATION] == pytest.approx(1.2047, abs=2e-6)
    assert (attempt.attributes or {})[semconv.TASK_TRANSFER] == attributes[semconv.PHASE_DURATION]
    assert (attempt.attributes or {})[semconv.TASK_DURATION] == 1.0


def test_a_result_that_is_written_to_disk_is_stored_after_the_attempt():
    attempt, phases = spans_of(("disk-write", STOP + 0.01, STOP + 0.51))
    assert not phases
    assert times(attempt) == (nanoseconds(START), nanoseconds(STOP))
    record = record_of(attempt)
    assert record["disk_write_s"] == pytest.approx(0.5, abs=2e-6)
    assert "phases_start" not in record


def test_what_lies_after_the_attempt_is_no_part_of_it():
    attempt, phases = spans_of(("transfer", STOP + 1, STOP + 2), ("disk-read", STOP, STOP + 1))
    assert not phases
    assert times(attempt) == (nanoseconds(START), nanoseconds(STOP))
    assert record_of(attempt)["transfer_s"] == 1.0


def test_phases_lie_within_their_attempt_whatever_their_times():
    chance = Random(1)
    seen = 0
    for _ in range(500):
        measured: list[facts.Phase] = []
        for _ in range(chance.randint(1, 6)):
            begin = START + chance.choice((0.01, 1.0, 100.0)) * chance.uniform(-1, 2)
            took = chance.choice((0.0, 0.004, 0.2, 3.0))
            action = chance.choice(("transfer", "disk-read", "disk-write", "deserialize"))
            measured.append((action, begin, begin + took))
        fails = chance.random() < 0.3
        ran = None if fails and chance.random() < 0.5 else START
        attempt, phases = spans_of(*measured, fails=fails, ran=ran)
        start, end = times(attempt)
        assert start <= nanoseconds(START)
        assert end == nanoseconds(STOP)
        for span in phases.values():
            begin, finish = times(span)
            assert start <= begin <= finish <= end
        seen += len(phases)
    assert seen > 100


def startstops(*actions: str) -> list[dict[str, Any]]:
    return [
        {"action": action, "start": float(number), "stop": number + 1.0}
        for number, action in enumerate(actions)
    ]


def test_parse_startstops__an_earlier_execution():
    """Dask keeps a task that others on the worker need, with what it has measured of it."""
    _, _, phases, _ = dask_compat.parse_startstops(
        startstops("transfer", "compute", "disk-write", "transfer", "disk-read", "compute")
    )
    assert phases == (("transfer", 3.0, 4.0), ("disk-read", 4.0, 5.0))


def test_parse_startstops__a_transfer_of_another_task():
    start, _, phases, _ = dask_compat.parse_startstops(
        startstops("transfer", "compute", "disk-write", "transfer")
    )
    assert start == 1.0
    assert phases == (("transfer", 0.0, 1.0), ("disk-write", 2.0, 3.0))

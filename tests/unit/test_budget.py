"""Which spans go over OTLP: never more than the budget, never one that hangs in the air."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, TraceState

from scalable.facts.identity import attempt_span_id
from scalable.telemetry.export.exported import exported_log
from scalable.telemetry.export.shipping import Shipper, limits_from
from scalable.telemetry.export.sinks import ExporterSink
from scalable.telemetry.ledger.signals import Output
from scalable.telemetry.signals.logs import EventFactory
from scalable.telemetry.signals.spans import SpanFactory, span_context
from scalable.telemetry.spans.budget import Group, SpanBudget
from scalable.telemetry.spans.span_router import SpanRouter

FACTORY = SpanFactory(Resource({}))
PARENT = span_context(7, 1)


def attempt(
    number: int,
    *,
    name: str = "inc",
    duration: float = 1.0,
    error: str | None = None,
    parent: Any = PARENT,
    links: tuple[Link, ...] = (),
) -> Group:
    ids = span_context(parent[0], attempt_span_id("run", f"key-{number}", number))
    at = 1_000.0 + number
    return Group(
        FACTORY.span(name, ids, parent, at, at + duration, {}, error=error, links=links), ()
    )


def budget_of(limit: int, expected: int) -> SpanBudget:
    budget = SpanBudget("run", limit, FACTORY)
    budget.parent(PARENT)
    budget.expect(PARENT.trace_id, expected)
    return budget


def rollups(spans: list[ReadableSpan]) -> list[dict[str, Any]]:
    return [dict(s.attributes or {}) for s in spans if "dask.rollup.count" in (s.attributes or {})]


def test_what_fits_is_sent_whole():
    budget = budget_of(100, 100)
    sent = budget.take(attempt(number) for number in range(100)) + budget.settle()
    assert len(sent) == 100
    assert rollups(sent) == []


@pytest.mark.parametrize("limit", [0, 1, 10, 100])
def test_sent_and_summed_up_are_all_there_were(limit: int):
    budget = budget_of(limit, 1_000)
    sent = budget.take(attempt(number, name=f"n{number % 3}") for number in range(1_000))
    sent += budget.settle()
    summed = rollups(sent)
    assert budget.sent <= limit
    assert len(sent) == budget.sent + len(summed)
    assert budget.sent + sum(values["dask.rollup.count"] for values in summed) == 1_000
    assert budget.summarized == 1_000 - budget.sent
    assert len({span.context.span_id for span in sent if span.context}) == len(sent)


def test_failures_and_the_slowest_are_sent_and_the_sample_is_spread():
    budget = budget_of(100, 10_000)
    bad, slow = {9_000, 9_500, 9_999}, {400, 5_000, 9_900}
    sent = budget.take(
        attempt(
            number,
            name="rare" if number in (7_777, 7_778) else "inc",
            error="ValueError" if number in bad else None,
            duration=60.0 if number in slow else 1.0,
        )
        for number in range(10_000)
    )
    live = {round((span.start_time or 0) / 1e9) - 1_000 for span in sent}
    assert bad <= live
    assert 7_777 in live
    # A part of every fifth of the run was visible while it went on.
    assert len({number // 2_000 for number in live - bad}) == 5
    everything = live | {round((s.start_time or 0) / 1e9) - 1_000 for s in budget.settle()}
    assert slow <= everything


def test_a_rollup_has_the_number_of_its_attempts():
    budget = budget_of(0, 4)
    budget.take(
        attempt(number, duration=d, error="E" if d == 2.0 else None)
        for number, d in enumerate((0.5, 1.0, 2.0, 4.0))
    )
    (span,) = budget.settle()
    assert span.name == "inc (others)"
    assert span.parent == PARENT
    values = dict(span.attributes or {})
    assert values["dask.rollup.count"] == 4
    assert values["dask.rollup.failed"] == 1
    assert values["dask.rollup.duration.sum"] == 7.5
    assert values["dask.rollup.duration.min"] == 0.5
    assert values["dask.rollup.duration.max"] == 4.0
    assert sum(values["dask.rollup.duration.bucket_counts"]) == 4


def test_a_rollup_of_several_submissions_is_below_the_first_with_its_trace_state():
    state = TraceState([("vendor", "opaque")])
    first, second, third = (span_context(7, number, state=state) for number in (1, 2, 3))
    budget = SpanBudget("run", 0, FACTORY)
    for ids in (first, second, third):
        budget.parent(ids)
    budget.take(attempt(number, name="one", parent=second) for number in range(2))
    budget.take(attempt(2 + number, parent=ids) for number, ids in enumerate((third, second)))
    spans = budget.settle()
    assert {span.name: span.parent for span in spans} == {
        "one (others)": second,
        "inc (others)": first,
    }
    assert [span.context.trace_state for span in spans if span.context] == [state, state]


def test_an_attempt_with_children_is_sent_and_children_of_one_left_out_are_not():
    budget = budget_of(10, 1_000)
    outer = attempt(0, duration=0.001)
    assert budget.pin(outer.attempt.context)  # type: ignore[arg-type]
    inner = attempt(1, parent=outer.attempt.context, error="E")
    orphan = attempt(2, parent=span_context(7, 99), error="E")
    sent = budget.take([inner, orphan])
    assert sent == [inner.attempt]
    assert outer.attempt in budget.take([outer])


def test_links_lead_only_to_what_was_sent():
    budget = budget_of(5, 5)
    there, gone = attempt(1), span_context(7, 4_242)
    budget.take([there])
    links = (Link(there.attempt.context), Link(gone))  # type: ignore[arg-type]
    (span,) = budget.take([attempt(2, links=links)])
    assert [link.context for link in span.links] == [there.attempt.context]
    assert dict(span.attributes or {})["dask.task.links.left_out"] == 1


def test_traces_have_budgets_of_their_own_and_old_ones_are_forgotten(monkeypatch):
    monkeypatch.setattr("scalable.telemetry.spans.budget.MAX_TRACES", 3)
    budget = SpanBudget("run", 2, FACTORY)
    sent: list[ReadableSpan] = []
    for trace in range(1, 11):
        parent = span_context(trace, trace)
        budget.parent(parent)
        budget.expect(trace, 3)
        sent += budget.take(attempt(10 * trace + n, parent=parent) for n in range(3))
        sent += budget.forgotten()
    sent += budget.settle()
    consumers = Counter(s.context.trace_id for s in sent if s.context and not rollups([s]))
    assert set(consumers.values()) == {2}
    assert sum(values["dask.rollup.count"] for values in rollups(sent)) == 10


def test_a_place_kept_for_a_span_of_user_code_is_free_when_it_has_come():
    budget = budget_of(5, 1_000)
    above = span_context(7, 77)
    for _ in range(3):
        assert budget.pin(above)  # its child came first
        budget.parent(above)
    assert budget.is_sent(above)
    assert all(budget.pin(span_context(7, 100 + number)) for number in range(4))
    assert not budget.pin(span_context(7, 200))


def test_a_log_record_says_whether_its_span_is_sent():
    router = SpanRouter("run", PARENT, Resource({}), 8)
    sink = ExporterSink(InMemorySpanExporter())
    router.shippers.append(
        Shipper("traces", sink, limits_from({}, "OTEL_BSP", 10, 5.0), pytest.fail)
    )
    record = EventFactory(Resource({})).event
    few, many = span_context(8, 1), span_context(9, 1)
    output = Output([], [], [], [], defaultdict(int, {8: 2, 9: 3}), set())
    router.export(output, [few, many])

    def flags(log: ReadableLogRecord) -> int:
        return exported_log(log, has_span=router.has_span(log)).log_record.trace_flags or 0

    task = {"dask.task.key": "inc-1"}
    for ids, sampled in ((few, 1), (span_context(8, 5), 1), (many, 1), (span_context(9, 5), 0)):
        log = record("said", 1_000.0, task, ids)
        assert flags(log) == sampled
        assert log.log_record.trace_flags == 1  # as the directory has it
    assert flags(record("of a worker", 1_000.0, {}, span_context(9, 5))) == 1
    for shipper in router.shippers:
        shipper.close(0.0)

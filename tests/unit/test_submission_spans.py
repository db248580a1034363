"""A submission's span is written at once, and sent when the size of its graphs is known."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from scalable.telemetry import semconv
from scalable.telemetry.ledger.carriers import CarrierReader
from scalable.telemetry.ledger.graph_sizes import MAX_SIZES, GraphSizes
from scalable.telemetry.ledger.task_graphs import TaskGraphs
from scalable.telemetry.signals.spans import SpanFactory, span_context
from scalable.telemetry.submissions.submission_spans import (
    LINGER,
    LINGER_SEVERAL,
    MAX_HELD,
    MAX_WAIT,
    SubmissionSpans,
)
from scalable.telemetry.submissions.submissions import Sent
from scalable_runs.redact import Redactor


class Recorded:
    """Submissions, with what was written and sent of them."""

    def __init__(self, *, sends: bool = True) -> None:
        self.sizes = GraphSizes()
        self.written: list[ReadableSpan] = []
        self.sent: list[ReadableSpan] = []
        self.spans = SubmissionSpans(
            "run-1",
            "project",
            span_context(1, 1),
            SpanFactory(Resource({})),
            Redactor(),
            self.sizes,
            TaskGraphs(CarrierReader("run-1", {}, Redactor()), lambda found: None),
            lambda span, context: self.written.append(span),
            self.sent.extend if sends else None,
        )

    def note(self, span_id: int, now: float = 0.0, graphs: int = 1, start: float = 1_000.0) -> None:
        ids = span_context(span_id, span_id)
        self.spans.note([Sent(ids, None, start, start, graphs, name="map inc")], 0.0, now)

    def tasks(self, span_id: int, count: int, layers: int = 0) -> None:
        for number in range(count):
            self.sizes.add(span_id, new_layer=number < layers)

    def release(self, now: float, *, exact: bool = True, **options: bool) -> list[dict[str, Any]]:
        """What is sent now: the sizes on each span."""
        self.sent.clear()
        self.spans.release(now, exact=exact, **options)
        return [
            {
                name: value
                for name, value in (span.attributes or {}).items()
                if name in (semconv.GRAPH_TASKS, semconv.GRAPH_LAYERS)
            }
            for span in self.sent
        ]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_it_is_written_at_once_and_sent_with_its_size(recorded: Recorded):
    recorded.note(2)
    assert [span.name for span in recorded.written] == ["map inc"]
    recorded.tasks(2, 5, layers=2)
    assert recorded.release(0.0) == []
    recorded.tasks(2, 2)  # the second part of the report
    assert recorded.release(LINGER) == []
    assert recorded.release(2 * LINGER) == [{"dask.graph.tasks": 7, "dask.graph.layers": 2}]
    (span,) = recorded.sent
    (before,) = recorded.written
    assert (span.context, span.start_time) == (before.context, before.start_time)
    assert [link.context for link in span.links] == [link.context for link in before.links]
    assert recorded.release(100.0) == []
    assert recorded.sizes.get(2) is None


def test_single_submits_have_no_layers_and_wait_for_the_last_of_them(recorded: Recorded):
    recorded.tasks(2, 3)
    recorded.note(2, graphs=3)
    assert recorded.release(0.0) == recorded.release(LINGER_SEVERAL / 2) == []
    assert recorded.release(LINGER_SEVERAL) == [{"dask.graph.tasks": 3}]


def test_a_report_in_parts_is_awaited(recorded: Recorded):
    recorded.tasks(2, 3)
    recorded.note(2)
    recorded.release(0.0)
    assert recorded.release(2 * LINGER, drained=False) == []
    assert recorded.release(2 * LINGER) == [{"dask.graph.tasks": 3}]


def test_a_large_graph_is_awaited_and_one_without_new_tasks_is_not_for_ever(recorded: Recorded):
    recorded.note(2)
    assert recorded.release(MAX_WAIT - 1) == []
    assert recorded.release(MAX_WAIT) == [{}]


def test_a_number_that_may_be_wrong_is_not_sent(recorded: Recorded):
    for span_id in (2, 3, 4):
        recorded.tasks(span_id, 3)
    recorded.note(2)
    recorded.release(0.0)
    assert recorded.release(LINGER, exact=False) == [{}]
    recorded.spans.exact_from = 2_000.0  # a predecessor may have counted some of them
    recorded.note(3)
    recorded.note(4, start=2_001.0)
    assert recorded.release(1.0, everything=True) == [{}, {"dask.graph.tasks": 3}]


def test_few_wait(recorded: Recorded):
    for span_id in range(2, MAX_HELD + 7):
        recorded.note(span_id)
    assert len(recorded.release(0.0)) == 5
    assert len(recorded.release(0.0, everything=True)) == MAX_HELD
    assert recorded.release(0.0, everything=True) == []
    for span_id in range(MAX_SIZES + 1):
        recorded.tasks(span_id, 1)
    assert recorded.sizes.get(0) is None
    assert recorded.sizes.get(1) is not None


def test_nothing_waits_where_nothing_is_sent():
    recorded = Recorded(sends=False)
    recorded.note(2)
    assert len(recorded.written) == 1
    assert recorded.release(100.0, everything=True) == []

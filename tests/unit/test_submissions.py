"""Which graphs are one submission, and how a graph gets its annotation."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import NonRecordingSpan

from scalable.facts.identity import carried
from scalable.telemetry.spans import span_context
from scalable.telemetry.submissions import SUBMISSION_WINDOW, Submissions


@pytest.fixture
def clock():
    return [1_000.0]


@contextmanager
def _attached(new):
    token = context.attach(new)
    yield
    context.detach(token)


def _in_span(number):
    span = NonRecordingSpan(span_context(7, number))
    return _attached(trace.set_span_in_context(span))


def test_graphs_in_a_row_are_one_submission(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    first = submissions.carrier()
    clock[0] += SUBMISSION_WINDOW / 2
    assert submissions.carrier() is first
    clock[0] += SUBMISSION_WINDOW
    assert submissions.carrier() != first
    assert [done.graphs for done in submissions.ended(clock[0], all_of_them=True)] == [2, 1]
    assert len(submissions.opened()) == 2


def test_another_span_or_baggage_begins_another_submission(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    with _in_span(1):
        first = submissions.carrier()
        assert submissions.carrier() is first
    with _in_span(2):
        second = submissions.carrier()
        assert second != first
        with _attached(baggage.set_baggage("experiment", "a")):
            third = submissions.carrier()
            assert "experiment=a" in carried(third)["baggage"]
            assert submissions.carrier() is third
    graphs = [done.graphs for done in submissions.ended(clock[0], all_of_them=True)]
    assert graphs == [2, 1, 2]


def test_an_equal_context_is_the_same_submission(clock):
    """A span attached anew for each call makes a new context each time."""
    submissions = Submissions("run", clock=lambda: clock[0])
    with _in_span(1):
        first = submissions.carrier()
    with _in_span(1):
        assert submissions.carrier() is first
        assert submissions.carrier() is first
    with _in_span(2):
        assert submissions.carrier() is not first

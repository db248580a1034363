"""Which graphs are one submission, and how a graph gets its annotation."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, TraceFlags, TraceState

from scalable.facts.identity import carried
from scalable.telemetry.spans import Sampling, parent_of, span_context
from scalable.telemetry.submissions import SUBMISSION_WINDOW, Sent, Submissions


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


class _Counted(IdGenerator):
    """A generator that was made before generators said whether trace ids are random."""

    is_trace_id_random = None  # pyright: ignore[reportAssignmentType]

    def generate_trace_id(self) -> int:
        return 7

    def generate_span_id(self) -> int:
        return 8


@pytest.mark.parametrize(("ids", "flags"), [(None, 3), (_Counted(), 1)])
def test_a_trace_that_begins_says_whether_its_id_is_random(ids, flags):
    submissions = Submissions("run", ids=ids)
    submissions.carrier()
    (opened,) = submissions.opened()
    assert opened.trace_flags == flags


def test_a_trace_that_continues_keeps_flags_and_state():
    submissions = Submissions("run")
    state = TraceState([("vendor", "1")])
    parent = NonRecordingSpan(span_context(7, 1, TraceFlags(0), state))
    with _attached(trace.set_span_in_context(parent)):
        carrier = submissions.carrier()
    found = parent_of(carried(carrier))
    assert found is not None
    assert (found.trace_id, found.trace_flags, found.trace_state) == (7, 0, state)


def test_what_a_sampler_adds_is_kept_also_for_another_process():
    state = TraceState([("ot", "th:c")])
    submissions = Submissions("run", lambda *_: Sampling(TraceFlags(1), state, {"rule": "all"}))
    found = parent_of(carried(submissions.carrier()))
    assert found is not None
    assert found.trace_state == state
    (sent,) = submissions.ended(0.0, all_of_them=True)
    assert sent.attributes == {"rule": "all"}
    # The caller's context stays in its process.
    assert Sent.of(sent.plain()) == sent._replace(context=None)

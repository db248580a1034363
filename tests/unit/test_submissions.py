"""Which graphs are one submission, and how a graph gets its annotation."""

from __future__ import annotations

import marshal
from contextlib import contextmanager
from uuid import uuid4

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, TraceFlags, TraceState

from scalable.facts.graphs import CallSite, DaskSpan, GraphRequest
from scalable.facts.identity import carried
from scalable.telemetry.signals.spans import Sampling, parent_of, span_context
from scalable.telemetry.submissions.submissions import (
    MAX_OPEN,
    SUBMISSION_WINDOW,
    Sent,
    Submissions,
    name_of,
)


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


LINE = CallSite("module.function", "/somewhere/module.py", 12)
OTHER_LINE = CallSite("module.function", "/somewhere/module.py", 13)


def _request(operation, *outputs, site=LINE, **more):
    return GraphRequest(operation, outputs, len(outputs), site, **more)


def test_submits_of_one_line_are_one_submission(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    carriers = set()
    for number in range(3):
        carriers.add(submissions.carrier(_request("submit", f"load-{uuid4()}")))
        carriers.add(submissions.carrier(_request("submit", f"fit-{number}", site=OTHER_LINE)))
    assert len(carriers) == 2
    ended = submissions.ended(clock[0], all_of_them=True)
    assert [(sent.name, sent.graphs) for sent in ended] == [("submit load", 3), ("submit fit", 3)]
    assert ended[0].attributes == {
        "dask.submission.operation": "submit",
        "code.function.name": "module.function",
        "code.file.path": "/somewhere/module.py",
        "code.line.number": 12,
    }


def test_submits_of_different_functions_on_one_line_say_so(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    for function in ("load", "load", "fit"):
        submissions.carrier(_request("submit", f"{function}-{uuid4()}"))
    (sent,) = submissions.ended(clock[0], all_of_them=True)
    assert (sent.name, sent.graphs) == ("submit load and others", 3)


@pytest.mark.parametrize("operation", ["compute", "persist", "map", "get"])
def test_each_other_call_is_a_submission_of_its_own(clock, operation):
    submissions = Submissions("run", clock=lambda: clock[0])
    request = _request(operation, ("sum-aggregate-0f1e2d3c4b5a69788796a5b4c3d2e1f0", 0, 0))
    assert submissions.carrier(request) != submissions.carrier(request)
    # They are complete at once.
    names = [sent.name for sent in submissions.ended(clock[0])]
    assert names == [f"{operation} sum-aggregate"] * 2


def test_the_batches_of_a_map_are_one_submission(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    carriers = {submissions.carrier(_request("map", "inc-1", is_part=True)) for _ in range(3)}
    assert len(carriers) == 1
    (sent,) = submissions.ended(clock[0], all_of_them=True)
    assert (sent.name, sent.graphs) == ("map inc", 3)


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (("sum-0123456789abcdef0123456789abcdef",), "compute sum"),
        ((("x-1", 0),), "compute x"),
        ((7,), "compute 7"),
        (("Dataset",), "compute Dataset"),
        (("sum-1", "mean-2"), "compute sum and others"),
        (("sum-1", "sum-2"), "compute sum"),
        ((), ""),
    ],
)
def test_a_submission_has_the_name_of_what_is_computed(outputs, name):
    assert name_of(_request("compute", *outputs)) == name


def test_a_span_of_dask_separates_submissions(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    one, two = (DaskSpan(("etl",), (number,)) for number in ("1", "2"))
    first = submissions.carrier(_request("submit", "inc-1", span=one))
    assert submissions.carrier(_request("submit", "inc-2", span=one)) == first
    assert submissions.carrier(_request("submit", "inc-3", span=two)) != first
    assert submissions.carrier(_request("submit", "inc-4")) != first
    assert carried(first)["spans"] == [["etl"], ["1"]]
    (sent, *_) = submissions.ended(clock[0], all_of_them=True)
    assert sent.attributes["dask.span.name"] == ("etl",)
    assert sent.attributes["dask.span.id"] == ("1",)


def test_submissions_that_may_go_on_are_bounded(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    for line in range(MAX_OPEN + 5):
        submissions.carrier(_request("submit", "inc-1", site=CallSite("f", "f.py", line)))
    assert len(submissions.ended(clock[0])) == 5
    assert len(submissions.ended(clock[0], all_of_them=True)) == MAX_OPEN


def test_a_sampler_sees_what_is_asked_for():
    seen = []

    def sample(trace_id, parent, name, attributes):
        seen.append((name, dict(attributes)))
        return Sampling(TraceFlags(1))

    Submissions("run", sample).carrier(_request("map", "rainfall-0"))
    ((name, attributes),) = seen
    assert name == "map rainfall"
    assert attributes["scalable.run.id"] == "run"
    assert attributes["code.line.number"] == 12


def test_another_process_gets_a_submission_whole(clock):
    submissions = Submissions("run", clock=lambda: clock[0])
    submissions.carrier(_request("map", "rainfall-0", span=DaskSpan(("etl",), ("1",))))
    (sent,) = submissions.ended(clock[0])
    plain = marshal.loads(marshal.dumps(sent.plain()))
    assert Sent.of(plain) == sent._replace(context=None)

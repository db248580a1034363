"""Which blocks of Dask's `span()` have a span of their own, and how many spans there are."""

from __future__ import annotations

import marshal
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan

from scalable.common.carriers import suppressing
from scalable.facts.graphs import DaskSpan, GraphRequest
from scalable.facts.identity import carried
from scalable.telemetry.signals.dask_spans import MAX_DEPTH, LeftSpan, OpenedSpan
from scalable.telemetry.signals.spans import Sampling, parent_of, span_context
from scalable.telemetry.submissions import open_spans
from scalable.telemetry.submissions.open_spans import (
    MAX_OVER,
    MAX_OWN,
    MAX_SHARED,
    MAX_SIBLINGS,
    WINDOW,
)
from scalable.telemetry.submissions.submissions import Sent, Submissions

RUN = "run-1"


class Program:
    """A program that enters blocks and submits in them."""

    def __init__(self, *, tells: bool = True, **options: Any) -> None:
        self.now = 1_000.0
        self.tells = tells
        self.submissions = Submissions(RUN, clock=lambda: self.now, **options)
        self.opened: list[OpenedSpan] = []
        self.left: list[LeftSpan] = []
        self.sent: list[Sent] = []
        self._entered = 0
        self._around: tuple[tuple[str, str], ...] = ()

    @contextmanager
    def block(self, name: str):
        self._entered += 1
        before, dask_id = self._around, f"id-{self._entered}"
        self._around = (*before, (name, dask_id))
        if self.tells:
            self.submissions.entered([dask_id])
        yield
        if self.tells:
            self.submissions.left([dask_id])
        self._around = before

    def submit(self) -> str:
        names, ids = zip(*self._around, strict=True) if self._around else ((), ())
        span = DaskSpan(names, ids) if names else None
        return self.submissions.carrier(GraphRequest("submit", ("inc-1",), 1, span=span))

    def take(self, *, everything: bool = False) -> None:
        """What the recorder takes in one step; in its order."""
        known = {ids.span_id for ids in self.submissions.opened()}
        opened, left = self.submissions.blocks(self.now, all_of_them=everything)
        ended = self.submissions.ended(self.now, all_of_them=everything)
        assert {each.ids.span_id for each in opened} <= known
        self.opened += [OpenedSpan.of(marshal.loads(marshal.dumps(it.plain()))) for it in opened]
        self.left += left
        self.sent += [Sent.of(marshal.loads(marshal.dumps(each.plain()))) for each in ended]

    @property
    def blocks(self) -> int:
        return sum(each.blocks for each in self.left)


def in_span(number: int):
    @contextmanager
    def attached():
        current = NonRecordingSpan(span_context(7, number))
        token = context.attach(trace.set_span_in_context(current))
        yield
        context.detach(token)

    return attached()


@pytest.mark.parametrize("tells", [True, False])
def test_a_loop_has_few_spans(tells: bool):
    program = Program(tells=tells)
    for _ in range(10_000):
        with program.block("step"):
            program.submit()
    program.take(everything=True)
    assert len(program.opened) == len(program.left) == MAX_SIBLINGS + 1
    assert program.blocks == 10_000
    # Single submits of one line in the shared span are one submission.
    assert len(program.sent) == MAX_SIBLINGS + 1
    assert sum(sent.graphs for sent in program.sent) == 10_000
    ids = {each.ids.span_id for each in program.opened}
    assert {each.span_id for each in program.left} == ids
    assert len(ids) == len(program.opened)
    # Each begins a trace of its own.
    assert len({each.ids.trace_id for each in program.opened}) == len(ids)


def test_loops_in_loops_and_many_names_have_few_spans():
    program = Program()
    with program.block("outer"):
        for number in range(3_000):
            with program.block(f"name {number}"):
                for _ in range(3):
                    with program.block("inner"):
                        program.submit()
    program.take(everything=True)
    assert len(program.opened) <= MAX_OWN + 2 * MAX_SHARED
    assert "other" in {each.names[-1] for each in program.opened}
    known = {each.ids.span_id for each in program.opened}
    parents = {each.parent.span_id for each in program.opened if each.parent is not None}
    assert parents <= known
    assert {it.parent.span_id for it in program.sent if it.parent is not None} <= known
    assert {each.span_id for each in program.left} == known


def test_the_next_loop_begins_anew():
    program = Program()
    for _ in range(2):
        for _ in range(MAX_SIBLINGS + 10):
            with program.block("step"):
                program.submit()
        program.take()
        shared = [each for each in program.left if each.blocks > 1]
        program.now += WINDOW
        program.take()
    assert len(program.opened) == len(program.left) == 2 * (MAX_SIBLINGS + 1)
    assert len(shared) == 1  # the first one, when its time was over
    assert program.blocks == 2 * (MAX_SIBLINGS + 10)


def test_a_span_of_the_caller_is_the_parent():
    program = Program()
    with in_span(1), program.block("step"):
        program.submit()
        with in_span(2):
            program.submit()
            with program.block("part"):
                program.submit()
        with program.block("last"):
            program.submit()
    program.take(everything=True)
    step, part, last = program.opened
    assert [it.parent and it.parent.span_id for it in (step, part)] == [1, 2]
    assert last.parent == step.ids
    assert {it.ids.trace_id for it in program.opened} == {7}
    assert (step.link, part.link, last.link) == (None, step.ids, None)
    parents = {it.name: 0 for it in program.sent}
    assert len(parents) == 1
    found = [(it.parent and it.parent.span_id, it.block) for it in program.sent]
    assert (step.ids.span_id, step.ids) in found
    assert (2, step.ids) in found
    assert (part.ids.span_id, part.ids) in found
    assert (last.ids.span_id, last.ids) in found


def test_the_sampler_decides_on_a_block_and_its_submissions_follow():
    asked: list[tuple[Any, str]] = []

    def sample(trace_id: int, parent: Any, name: str, about: Any) -> Sampling:
        asked.append((parent, name))
        return Sampling(span_context(1, 1, 0).trace_flags, None, {"why": name})

    program = Program(sample=sample)
    with program.block("step"):
        carrier = program.submit()
        carried_ids = parent_of(carried(carrier))
    program.take(everything=True)
    (step,) = program.opened
    assert asked == [(None, "step"), (step.ids, "submit inc")]
    assert step.attributes == {"why": "step"}
    assert not step.ids.trace_flags.sampled
    assert carried_ids is not None
    assert carried_ids.trace_id == step.ids.trace_id
    assert carried(carrier)["block"] == f"{step.ids.span_id:016x}"


def test_what_is_suppressed_has_no_block():
    program = Program()
    with program.block("step"):
        token = context.attach(suppressing(context.get_current()))
        program.submit()
        context.detach(token)
    program.take(everything=True)
    assert program.opened == []
    assert [each.block for each in program.sent] == [None]


def test_a_block_without_a_graph_has_no_span_unless_one_within_it_has():
    program = Program()
    with program.block("empty"):
        pass
    with program.block("outer"), program.block("inner"):
        program.submit()
    program.take(everything=True)
    assert [each.names for each in program.opened] == [("outer",), ("outer", "inner")]
    assert [each.blocks for each in program.left] == [1, 1]
    assert program.left[0].span_id == program.opened[1].ids.span_id


def test_blocks_deep_within_each_other_belong_to_the_last_one_with_a_span():
    program = Program()

    def enter(depth: int) -> None:
        program.submit()
        if depth:
            with program.block(f"depth {depth}"):
                enter(depth - 1)

    enter(MAX_DEPTH + 20)
    program.take(everything=True)
    assert len(program.opened) == MAX_DEPTH
    assert len(program.opened[-1].names) == MAX_DEPTH


def test_where_no_end_is_told_the_oldest_blocks_end(monkeypatch):
    monkeypatch.setattr(open_spans, "MAX_BLOCKS", 20)
    program = Program(tells=False)
    for _ in range(30):
        program.now += WINDOW  # each one has a span of its own
        with program.block("step"):
            program.submit()
    program.take()
    assert len(program.opened) == 30
    assert len(program.left) == 10


def test_a_successor_of_the_recorder_is_told_of_open_blocks_and_of_those_left_lately():
    program = Program()
    with program.block("outer"):
        with program.block("inner"):
            program.submit()
        program.take()
        first = program.opened
        program.opened, program.left = [], []
        program.submissions.repeat_blocks()
        program.take()
        assert [it.names for it in program.opened] == [it.names for it in first]
        assert [it.ids for it in program.opened] == [it.ids for it in first]
        assert [it.blocks for it in program.left] == [1]
    program.take()
    assert len(program.left) == 2
    for _ in range(MAX_OVER + 10):
        program.now += WINDOW
        with program.block("step"):
            program.submit()
    program.take()
    program.opened = []
    program.submissions.repeat_blocks()
    program.take()
    assert len(program.opened) == MAX_OVER

"""What `scalable export` sends of runs whose records are incomplete, at several span budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from run_builder import RunBuilder, at, task
from scalable.telemetry import semconv
from scalable.telemetry.resend.resend import Resent, resend
from scalable_runs.reader import RunReader
from scalable_runs.schema import Record
from taken import Taken

TRACE = "b" * 32
OURS = {"name": semconv.SCOPE_NAME}
USERS = {"name": "of.the.user"}


def ids(number: int, parent: int = 0, trace: str = TRACE) -> dict[str, str]:
    found = {"trace_id": trace, "span_id": f"{number:016x}"}
    return {**found, "parent_span_id": f"{parent:016x}"} if parent else found


def attempt(key: str, number: int, parent: int, end: float, state: str = "succeeded"):
    mine = ids(number, parent)
    return [task("running", key, end - 1, **mine), task(state, key, end, **mine)]


def span(name: str, number: int, parent: int, end: float, **more: Any) -> Record:
    return {
        "event_type": "span",
        "timestamp": at(end),
        "name": name,
        "kind": "internal",
        "start_time": at(end - 0.1),
        "end_time": at(end),
        "scope": USERS,
        **ids(number, parent),
        **more,
    }


def submission(number: int) -> Record:
    return span("submit it", number, 0, 0.5, kind="producer", scope=OURS)


def sent(tmp_path: Path, budget: int | None, *records: Record) -> tuple[dict[str, Any], Resent]:
    """Spans by name with their parents' names; no span is sent twice, or without its parent."""
    run = RunBuilder(tmp_path, "run-20260102T030405Z-x-0000aaaa", trace_id="a" * 32)
    run.add(*records)
    taken = Taken()
    resent = resend(RunReader(run.finish(60)), taken, span_budget=budget)
    names = {each.context.span_id: each.name for each in taken.spans if each.context is not None}
    assert len(names) == len(taken.spans)
    parents = {
        each.name: None if each.parent is None else names[each.parent.span_id]
        for each in taken.spans
    }
    return parents, resent


@pytest.mark.parametrize("budget", [None, 1, 9])
def test_spans_within_spans_share_the_fate_of_their_attempt(tmp_path: Path, budget: int | None):
    parents, resent = sent(
        tmp_path,
        budget,
        submission(1),
        *attempt("fast-1", 2, 1, 2),
        *attempt("slow-1", 3, 1, 3, state="failed"),
        span("inner fast", 12, 11, 1.8),
        span("outer fast", 11, 2, 1.9),
        span("within slow", 13, 3, 2.9),
    )
    assert parents["within slow"] == "slow"
    assert ("inner fast" in parents) == ("outer fast" in parents) == (budget != 1)
    assert resent.user_spans_left_out == (2 if budget == 1 else 0)


@pytest.mark.parametrize("budget", [None, 0, 1, 2, 9])
def test_an_attempt_is_sent_with_all_above_it(tmp_path: Path, budget: int | None):
    """A task that was submitted within a span of another; a third outlives the one above it."""
    parents, _ = sent(
        tmp_path,
        budget,
        submission(1),
        *attempt("nested-1", 3, 12, 1.5, state="failed"),
        span("inner", 12, 11, 1.8),
        span("outer", 11, 2, 1.9),
        *attempt("around-1", 2, 1, 2),
        *attempt("later-1", 4, 2, 3),
    )
    if "nested" in parents:
        assert (parents["nested"], parents["inner"], parents["outer"]) == (
            *("inner", "outer", "around"),
        )
    assert ("nested" in parents) == (budget is None or budget >= 2)
    if "later" in parents:
        assert parents["later"] == "around"


@pytest.mark.parametrize("budget", [None, 0, 9])
def test_a_span_that_was_lost_with_its_worker_has_a_stand_in(tmp_path: Path, budget: int | None):
    key = {semconv.TASK_KEY: "dies-1"}
    parents, _ = sent(
        tmp_path,
        budget,
        submission(1),
        *attempt("dies-1", 2, 1, 2, state="lost"),
        *attempt("dies-1", 3, 1, 4),
        span("within", 12, 11, 1.9, attributes=key),
    )
    if budget == 0:
        assert "within" not in parents
    else:
        (stand_in,) = [name for name in parents if name.startswith("span")]
        assert parents["within"] == stand_in
        assert parents[stand_in] == "dies"


@pytest.mark.parametrize("budget", [None, 0])
def test_a_layer_whose_submission_was_not_written_has_a_parent(tmp_path: Path, budget: int | None):
    layer = {semconv.LAYER_NAME: "sum-1", semconv.TASK_NAME: "sum"}
    parents, _ = sent(
        tmp_path,
        budget,
        *attempt("sum-1", 3, 2, 2),
        span("sum (layer)", 2, 1, 2, scope=OURS, attributes=layer),
    )
    assert parents["sum (layer)"] == "submit flights"


def test_a_span_of_a_trace_that_began_elsewhere_is_sent(tmp_path: Path):
    run = RunBuilder(tmp_path, "run-20260102T030405Z-x-0000aaaa", trace_id="a" * 32)
    away = ids(12, 11, trace="c" * 32)
    run.add(submission(1), *attempt("a-1", 2, 1, 2), span("away", 12, 11, 1.9, **away))
    taken = Taken()
    resend(RunReader(run.finish(60)), taken, span_budget=9)
    (found,) = [each for each in taken.spans if each.name == "away"]
    assert found.parent is not None
    assert found.parent.span_id == 11
    assert not [each for each in taken.spans if semconv.STAND_IN in (each.attributes or {})]

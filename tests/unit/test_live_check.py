"""The live check finds what is not in the registry, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from scalable.telemetry import instruments, semconv
from servers.live_check import deviations

Item = dict[str, Any]


def span(**changed: Any) -> Item:
    attributes = {
        semconv.TASK_KEY: "sum-1",
        semconv.TASK_NAME: "sum",
        semconv.TASK_STATE: "succeeded",
        semconv.TASK_ATTEMPT: 1,
        semconv.TASK_RESULT: "success",
        semconv.TASK_DURATION: 0.5,
    }
    more = changed.pop("attributes", {})
    return {
        "name": "sum",
        "kind": "consumer",
        "attributes": {k: v for k, v in {**attributes, **more}.items() if v is not None},
        "events": [],
        "scope": semconv.SCOPE_NAME,
        "resource": {semconv.RUN_ID: "run-1", "service.name": "floods"},
        **changed,
    }


def record(**changed: Any) -> Item:
    of_run = {"scope": semconv.SCOPE_NAME, "resource": {}, "body": None}
    return {
        "event_name": semconv.EVENT_RUN,
        "attributes": {semconv.RUN_ID: "run-1"},
        **of_run,
        **changed,
    }


def point(**changed: Any) -> Item:
    return {
        "name": instruments.WORKER_MEMORY.name,
        "type": "sum",
        "monotonic": False,
        "unit": "By",
        "attributes": {semconv.WORKER_NAME: "0"},
        "scope": semconv.SCOPE_NAME,
        "resource": {},
        **changed,
    }


def test_what_is_registered_passes():
    assert deviations([span()], [record()], [point()]) == []


def test_signals_of_user_code_may_have_any_name_outside_of_our_namespaces():
    mine = {"scope": "floods"}
    assert deviations([span(**mine, name="read", attributes={"gauge.id": 7})]) == []
    assert deviations([], [record(**mine, event_name="", attributes={"station": "x"})]) == []
    assert deviations([], [], [point(**mine, name="floods.level", unit="m")]) == []
    (found,) = deviations([span(**mine, attributes={"dask.mine": 1})])
    assert "dask.mine" in found


def test_user_code_may_write_to_the_span_of_its_attempt():
    mine = {"name": "read", "attributes": {"station": "x"}}
    raised = {semconv.EXCEPTION_TYPE: "ValueError", semconv.EXCEPTION_MESSAGE: "is wrong"}
    more = {"name": "exception", "attributes": {**raised, "exception.escaped": "False"}}
    assert deviations([span(attributes={"station": "x"}, events=[mine, more])]) == []
    worker = {semconv.WORKER_ADDRESS: "tcp://a", semconv.WORKER_NAME: "0"}
    other = span(name="worker 0", kind="internal", attributes=worker)
    other["attributes"] = {**worker, "station": "x"}
    (found,) = deviations([other])
    assert "station" in found


@pytest.mark.parametrize(
    ("what", "planted", "named"),
    [
        ("spans", span(attributes={semconv.RECORD: "task"}), semconv.RECORD),
        ("spans", span(attributes={semconv.RUN_STATUS: "failed"}), semconv.RUN_STATUS),
        ("spans", span(attributes={semconv.TASK_ATTEMPT: "1"}), "type int"),
        ("spans", span(attributes={semconv.TASK_DURATION: 1}), "type double"),
        ("spans", span(attributes={semconv.TASK_RESULT: "done"}), "not one of"),
        ("spans", span(attributes={semconv.TASK_KEY: None}), "no span is like"),
        ("spans", span(kind="internal"), "no span is like"),
        ("spans", span(events=[{"name": "dask.x", "attributes": {}}]), "event dask.x"),
        ("spans", span(resource={"dask.host": "node7"}), "dask.host"),
        ("logs", record(event_name="scalable.run.begun"), "scalable.run.begun"),
        ("logs", record(attributes={}), f"lacks {semconv.RUN_ID}"),
        ("points", point(name="dask.worker.memory"), "not registered"),
        ("points", point(unit="MBy"), "'MBy'"),
        ("points", point(type="gauge"), "is a gauge"),
        ("points", point(monotonic=True), "is a counter"),
        ("points", point(attributes={}), f"lacks {semconv.WORKER_NAME}"),
    ],
)
def test_what_is_not_registered_is_found(what: str, planted: Item, named: str):
    (found,) = deviations(**{what: [planted]})
    assert named in found

"""Backends get the class of an exception with its module; the journals have it without, as ever."""

from __future__ import annotations

from typing import Any

from scalable import facts
from scalable.testing import START, RecordedRun, record_facts
from scalable_runs.schema import FAILURES, TASKS

WORKER = "tcp://10.0.0.1:8786"


def failed(key: str, module: str, error_type: str, **changed: Any) -> facts.Failed:
    fact = facts.Failed(
        facts.FAILED,
        *(START + 3, key, 1, WORKER, START + 1, START + 3, START, ()),
        *(error_type, "is wrong", "Traceback …", 1.0, False),
        module=module,
    )
    return fact._replace(**changed)


def recorded(*more: facts.Fact) -> RecordedRun:
    return record_facts(
        [
            facts.WorkerReady(facts.WORKER_READY, START, WORKER, "0", "host", 1, 2, 0, None),
            facts.Submitted(facts.SUBMITTED, START, "x", "x", None, (), 0, None, False),
            facts.Started(facts.STARTED, START + 1, "x", 1, WORKER),
            *more,
        ]
    )


def test_a_class_is_sent_with_its_module_and_written_as_before():
    run = recorded(failed("x", "mymodule", "MyError"))
    (span,) = [span for span in run.signals.spans if span.name == "x"]
    assert (span.attributes or {})["error.type"] == "mymodule.MyError"
    (event,) = span.events
    assert (event.attributes or {})["exception.type"] == "mymodule.MyError"
    line = run.lines(TASKS)[-1]
    assert (line["error_type"], line["error_class"]) == ("MyError", "mymodule.MyError")
    (failure,) = run.lines(FAILURES)
    assert (failure["failure_class"], failure["error_class"]) == ("MyError", "mymodule.MyError")


def test_a_builtin_class_has_no_module():
    run = recorded(failed("x", "", "ValueError"))
    (span,) = [span for span in run.signals.spans if span.name == "x"]
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert "error_class" not in run.lines(TASKS)[-1] | run.lines(FAILURES)[-1]


def test_a_task_that_failed_because_of_another_has_the_same_class():
    run = recorded(
        facts.Submitted(facts.SUBMITTED, START, "y", "y", None, ("x",), 1, None, False),
        failed("x", "mymodule", "MyError"),
        facts.Blamed(facts.BLAMED, START + 3, "y", "x"),
    )
    (line,) = [line for line in run.lines(TASKS) if line.get("blame") == "x"]
    assert line["task_id"] == "y"
    assert (line["error_type"], line["error_class"]) == ("MyError", "mymodule.MyError")

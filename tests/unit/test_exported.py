"""What is sent of a signal, and what is for the run directory alone."""

from __future__ import annotations

from scalable.telemetry import semconv
from scalable.telemetry.export.exported import exported_attributes


def test_attributes_for_the_directory_alone_are_not_sent():
    assert exported_attributes({semconv.RECORD: "task", semconv.TASK_KEY: "x"}) == {
        semconv.TASK_KEY: "x"
    }


def test_a_class_with_its_module_takes_the_place_of_the_bare_one():
    error = {semconv.ERROR_CLASS: "mine.Error"}
    assert exported_attributes({semconv.ERROR_TYPE: "Error", **error}) == {
        semconv.ERROR_TYPE: "mine.Error"
    }
    assert exported_attributes({semconv.EXCEPTION_TYPE: "Error", **error}) == {
        semconv.EXCEPTION_TYPE: "mine.Error"
    }


def test_an_attribute_has_the_same_type_always():
    # A backend may refuse a field that was a whole number before.
    sent = exported_attributes({semconv.COST_HOURLY: 1, semconv.REQUESTED_CPUS: 2})
    assert [type(value) for value in sent.values()] == [float, float]
    assert sent == {semconv.COST_HOURLY: 1.0, semconv.REQUESTED_CPUS: 2.0}

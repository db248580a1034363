"""Series of numbers that the program records: last, least and greatest."""

from __future__ import annotations

from typing import Any

import pytest

from scalable.records import record_metric
from scalable.telemetry.ledger.user_metrics import MAX_METRICS, UserMetrics


def test_the_last_is_that_of_the_greatest_step() -> None:
    metrics = UserMetrics()
    for step, value in ((0, 1.0), (2, 0.25), (1, 0.1), (3, 0.5)):
        metrics.add("loss", value, "1", step)
    metrics.add("loss", 9.0, "1", 2)
    assert metrics.document() == {
        "loss": {
            "count": 5,
            "unit": "1",
            "last": 0.5,
            "step": 3,
            "min": 0.1,
            "min_step": 1,
            "max": 9.0,
            "max_step": 2,
        }
    }


def test_without_steps_it_is_that_which_came_last() -> None:
    metrics = UserMetrics()
    for value in (3.0, -1.0, 2.0):
        metrics.add("score", value, "", None)
    assert metrics.document() == {"score": {"count": 3, "last": 2.0, "min": -1.0, "max": 3.0}}


def test_names_are_bounded() -> None:
    metrics = UserMetrics()
    for number in range(2 * MAX_METRICS):
        metrics.add(f"m{number}", 1.0, "", None)
    assert len(metrics.document()) == MAX_METRICS
    assert metrics.changed is False


def test_it_continues_where_a_recorder_died() -> None:
    metrics = UserMetrics()
    metrics.add("loss", 1.0, "", 0)
    after = UserMetrics()
    after.restore(metrics.document())
    after.restore([1])
    after.add("loss", 0.5, "", 1)
    assert after.document()["loss"] == {
        "count": 2, "last": 0.5, "step": 1, "min": 0.5, "min_step": 1, "max": 1.0, "max_step": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("step", "error"), [(1.5, TypeError), ("x", TypeError), (2**63, ValueError)]
)
def test_a_step_is_a_whole_number(step: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        record_metric("loss", 1.0, step=step)

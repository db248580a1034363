"""Advice on memory: never below what the past says without a reason, and better than a rule."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.advise import OURS, back_test, generated
from scalable.advice.estimates import bounds, estimates
from scalable.advice.memory import DEFAULT, FEWEST, MemoryAdvisor
from scalable.advice.usage import CAP, FLOOR, Usage, outcome


def advisor(attempts: Iterable[Usage]) -> MemoryAdvisor:
    made = MemoryAdvisor()
    for used in attempts:
        made.observe(used)
    return made


def test_an_allocation_that_is_enough_wastes_what_is_above_the_peak():
    cost = outcome(3e9, Usage(2e9, 3600), 2e9)
    assert cost == (pytest.approx(1.0), 0)


def test_a_failed_try_wastes_all_of_it_and_the_next_has_twice_or_the_largest():
    # 1 GB fails, then 4 GB, the largest seen: 1 + (4 - 3) GB·h.
    assert outcome(1e9, Usage(3e9, 3600), 4e9) == (pytest.approx(2.0), 1)
    # 1, 2 and 4 GB, where nothing larger was seen.
    assert outcome(1e9, Usage(3e9, 3600), 1e9) == (pytest.approx(4.0), 2)


def test_an_allocation_is_never_beyond_what_can_be_given():
    assert outcome(0.0, Usage(1e6, 3600), 0.0) == (pytest.approx((FLOOR - 1e6) / 1e9), 0)
    assert outcome(1e15, Usage(2 * CAP, 3600), 0.0).failures == 0


def test_nothing_is_advised_from_too_few_attempts():
    few = [Usage(1e9, 60)] * (FEWEST - 1)
    assert advisor(few).advise() is None
    advice = advisor([*few, Usage(2e9, 60)]).advise()
    assert advice is not None
    assert advice.policy == DEFAULT
    assert advice.allocation == pytest.approx(2.2e9)


def test_a_need_that_inputs_explain_becomes_a_rule():
    rng = random.Random(1)
    sizes = [rng.uniform(1e8, 5e9) for _ in range(100)]
    made = advisor(Usage(8e8 + 2.1 * size, 100, size) for size in sizes)
    assert made.policy.estimate == "line"
    advice = made.advise(1e9)
    assert advice is not None
    assert advice.allocation == pytest.approx(2.9e9, rel=0.1)
    line = bounds(made.past)["line"]
    assert (line.base, line.slope) == (pytest.approx(8e8), pytest.approx(2.1))


def test_without_the_size_of_the_input_such_a_rule_is_not_used():
    made = advisor(
        Usage(8e8 + 2.1 * size, 100, size) for size in range(int(1e8), int(5e9), int(1e8))
    )
    advice = made.advise(None)
    assert advice is not None
    assert advice.policy == DEFAULT


def test_sizes_that_explain_nothing_do_no_harm():
    rng = random.Random(2)
    attempts = [Usage(rng.choice((1e9, 6e9)), 100, rng.uniform(1e8, 5e9), 16e9) for _ in range(300)]
    found = back_test({"made": {"kind": attempts}})["policies"]
    assert found[OURS]["waste_gb_h"] <= found["largest seen × 1.1"]["waste_gb_h"] * 1.05
    assert found[OURS]["failed_percent"] <= 1.0


def test_generated_histories_are_advised_better_than_by_the_largest_peak():
    found = back_test(generated(200))["policies"]
    assert found[OURS]["waste_gb_h"] < 0.5 * found["largest seen × 1.1"]["waste_gb_h"]
    assert found[OURS]["waste_gb_h"] < 0.2 * found["as requested"]["waste_gb_h"]


@given(
    st.lists(
        st.tuples(st.floats(1e6, 1e12), st.floats(0, 1e13) | st.none()), min_size=1, max_size=40
    ),
    st.floats(0, 1e14) | st.none(),
)
def test_estimates_are_finite_and_no_less_than_the_least_seen(rows, size):
    past = [Usage(peak, 1.0, known) for peak, known in rows]
    least = min(used.peak for used in past)
    for value in estimates(past, size).values():
        assert least * 0.999 <= value < float("inf")

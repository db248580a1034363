"""What a report says of the arguments of failed attempts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scalable.analysis.argument_words import argument_sentences, joined_arguments
from scalable_runs.summary import Arguments


def of(*calls: dict[str, Any]) -> Arguments:
    """Calls with these values; a table stands for itself."""
    arguments = Arguments()
    for call in calls:
        arguments.add(
            [
                {"name": name, **(value if isinstance(value, dict) else {"value": value})}
                for name, value in call.items()
            ]
        )
    return arguments


def said(arguments: Arguments, count: int) -> list[str]:
    return list(argument_sentences(arguments.document(), count))


def test_what_differs_and_what_all_have() -> None:
    calls = [{"scenario_id": n, "rate": 0.25, "mode": "exact"} for n in (14, 0, 7)]
    assert said(of(*calls), 3) == [
        "the 3 that failed have scenario_id 0, 7, 14",
        "all of them have rate 0.25, mode “exact”",
    ]


def test_what_says_nothing_is_left_out() -> None:
    model = {"kind": "object", "type": "project.Model"}
    calls = [{"self": model, "api_key": "[redacted]", "x": n} for n in (1, 2)]
    assert said(of(*calls), 2) == ["the 2 that failed have x 1, 2"]
    assert said(of({"self": model}), 1) == []
    assert said(of(), 3) == []


def test_one_failure_and_one_of_many_that_is_known() -> None:
    assert said(of({"path": "/data/a.nc", "n": 3}), 1) == [
        "it was called with path “/data/a.nc”, n 3"
    ]
    assert said(of({"n": 3}), 4) == ["one of the 4 was called with n 3"]
    assert said(of({"n": 3}, {"n": 4}), 5) == ["of the 5 that failed, 2 are known to have n 3, 4"]


def test_the_same_in_all_and_values_that_repeat() -> None:
    assert said(of({"n": 3}, {"n": 3}), 2) == ["the 2 that failed have the same n 3"]
    assert said(of({"n": 3}, {"n": 3}, {"n": "x"}), 3) == ["the 3 that failed have n 3 (2×), “x”"]


@pytest.mark.parametrize("number", [20, 500])
def test_many_values_are_a_range_or_the_first(number: int) -> None:
    numbers = of(*({"n": n} for n in range(number)))
    how = f"{number} different values" if number == 20 else "many values"
    assert said(numbers, number) == [
        f"the {number} that failed have n from 0 to {number - 1} ({how})"
    ]
    (texts,) = said(of(*({"n": f"t{n}"} for n in range(number))), number)
    assert texts.startswith(f"the {number} that failed have n “t0”, “t1”, “t2”")
    assert texts.endswith(" more")


def test_arrays_and_other_objects_are_described() -> None:
    array = {"kind": "object", "type": "numpy.ndarray", "shape": [365, 180], "dtype": "float64"}
    (sentence,) = said(of({"data": array}), 1)
    assert sentence == "it was called with data numpy.ndarray 365 × 180 float64"


def test_records_of_any_form() -> None:
    arguments = Arguments()
    for anything in (None, 3, "x", {}, [], [1, {"name": 3}, {"name": "…"}, {"name": "a"}]):
        arguments.add(anything)
    assert arguments.calls == 1
    assert [row["name"] for row in arguments.document()] == ["a"]


def test_bounded() -> None:
    arguments = of(*({f"n{k}": "x" * 1_000 + str(n) for k in range(200)} for n in range(100)))
    assert len(json.dumps(arguments.document())) < 50 * 50 * 400


def test_two_groups_of_one_line() -> None:
    one, other = of({"n": 1}, {"n": 2}).document(), of({"n": 2}, {"m": 3}).document()
    assert list(argument_sentences(joined_arguments(one, other), 4)) == [
        "of the 4 that failed, 3 are known to have n 1, 2 (2×)"
    ]

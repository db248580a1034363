"""Foreign values as JSON, and times."""

from __future__ import annotations

import json
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest

from scalable_runs.plain import (
    dumps,
    iso,
    iso_time,
    parse_nanoseconds,
    parse_seconds,
    parse_time,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": {1}}, {"a": [1]}),
        (UserDict(a=1), {"a": 1}),
        (b"a\xff", "a\\xff"),
        (Path("a") / "b", "a/b"),
        (object(), "<object>"),
        ("a\ud800", "a\\ud800"),
        (2**80, str(2**80)),
        (1 << 5000, "<int of 5001 bits>"),
        ({"a\ud800": 1, None: 2, (): 3}, {"a\\ud800": 1, "None": 2, "<tuple>": 3}),
        (float("nan"), None),
    ],
)
def test_any_value_becomes_json(value: Any, expected: Any):
    assert json.loads(dumps(value)) == expected


def test_a_value_that_contains_itself_is_cut():
    value: list[Any] = []
    value.append(value)
    assert b"<nested too deeply>" in dumps(value)


def test_times_are_utc_with_microseconds():
    text = "2026-01-02T03:04:05.678901Z"
    assert iso(parse_seconds(text) or 0) == text
    assert iso_time(parse_nanoseconds(text)) == text
    assert iso_time(parse_nanoseconds(text) + 999) == text
    assert parse_time("2026-01-02T05:04:05.678901+02:00") == parse_time(text)
    assert parse_time("2026-01-02T03:04:05.678901") == parse_time(text)


@pytest.mark.parametrize("value", [None, 3, "", "soon", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_has_none(value: object):
    assert parse_time(value) is None
    assert parse_seconds(value) is None
    assert parse_nanoseconds(value) == 0

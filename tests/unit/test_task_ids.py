"""Every key of Dask has a task id of its own, and ordinary keys look as they are."""

from __future__ import annotations

import ast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scalable.facts.identity import task_id

TEXTS = st.text(st.characters(), max_size=8)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
KEYS = st.recursive(
    TEXTS | NUMBERS, lambda below: st.lists(below, max_size=3).map(tuple), max_leaves=5
)
#: Strings that read like keys of another kind.
READ_ALIKE = (KEYS | TEXTS).map(lambda key: str(key)) | (KEYS | TEXTS).map(repr)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("inc-3f0a", "inc-3f0a"),
        ("2000-01-01", "2000-01-01"),
        ("-", "-"),
        ("(a) b", "(a) b"),
        ("7e", "7e"),
        ("007", "007"),
        ("文件", "文件"),
        ("inf", "inf"),
        ("", ""),
        ("two\nlines", "two\nlines"),
        (("x", 1), "('x', 1)"),
        ("('x', 1)", "\"('x', 1)\""),
        (1, "1"),
        ("1", "'1'"),
        ("-0", "-0"),
        (2.5, "2.5"),
        ("2.5", "'2.5'"),
        ("1e+16", "'1e+16'"),
        (float("inf"), "(inf)"),
        ("'1'", "\"'1'\""),
        ("caf\udce9", r"'caf\udce9'"),
    ],
)
def test_ordinary_keys_look_as_they_are_and_others_are_marked(key, expected):
    assert task_id(key) == expected


@given(one=KEYS | READ_ALIKE, other=KEYS | READ_ALIKE)
@example(one=("x", 1), other="('x', 1)")
@example(one="'1'", other="1")
@example(one="-0.0", other=-0.0)
def test_different_keys_have_different_ids(one, other):
    # Keys that are equal (1 and 1.0) are one task to Dask.
    if one != other:
        assert task_id(one) != task_id(other)


@given(key=KEYS | READ_ALIKE)
def test_id_can_be_encoded_and_shows_the_key(key):
    text = task_id(key)
    text.encode()
    if text != key and "inf" not in text:
        assert ast.literal_eval(text) == key

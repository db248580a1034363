"""Ids of the traces that a run begins."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from scalable.telemetry.configuration.ids import SecureIdGenerator, find_id_generator
from scalable.telemetry.configuration.routes import find_routes
from sites import installed

VARIABLE = "OTEL_PYTHON_ID_GENERATOR"


class DatedIds(IdGenerator):
    """Trace ids that begin with a date, as some backends ask for; span ids from 7 on."""

    def __init__(self) -> None:
        self._spans = count(7)

    def generate_trace_id(self) -> int:
        return 0x6789 << 112 | random.getrandbits(96)

    def generate_span_id(self) -> int:
        return next(self._spans)


class BrokenIds(IdGenerator):
    def generate_trace_id(self) -> int:
        raise OSError("planted")

    def generate_span_id(self) -> int:
        return 1 << 64


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = ("dated = unit.test_ids:DatedIds", "broken = unit.test_ids:BrokenIds")
    installed(
        monkeypatch, tmp_path, "opentelemetry_id_generator", *points, "absent = not_there:Ids"
    )


@pytest.mark.usefixtures("plugins")
def test_the_variable_chooses_the_generator():
    ids = find_id_generator({VARIABLE: "dated"}, None, pytest.fail)
    assert ids.generate_trace_id() >> 112 == 0x6789
    assert ids.generate_span_id() == 7
    assert ids.is_trace_id_random() is False


def test_the_generator_of_the_application_is_used():
    provider = TracerProvider(id_generator=DatedIds(), shutdown_on_exit=False)
    routes = find_routes({VARIABLE: "absent"}, pytest.fail, tracer_provider=provider)
    ids = find_id_generator(routes.environ, routes.id_generator, pytest.fail)
    assert ids.generate_trace_id() >> 112 == 0x6789


@pytest.mark.parametrize("environ", [{}, {VARIABLE: "random"}])
def test_random_ids_do_not_depend_on_the_seed(environ):
    for chosen in (None, RandomIdGenerator()):
        ids = find_id_generator(environ, chosen, pytest.fail)
        assert isinstance(ids, SecureIdGenerator)
        random.seed(1)
        first = ids.generate_trace_id()
        random.seed(1)
        assert ids.generate_trace_id() != first


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("name", "words"),
    [("absent", "not_there"), ("missing", "is not installed"), ("broken", "OSError: planted")],
)
def test_a_generator_that_cannot_be_used_costs_a_warning(name, words):
    told: list[str] = []
    ids = find_id_generator({VARIABLE: name}, None, told.append)
    assert 0 < ids.generate_trace_id() < 1 << 128
    (sentence,) = told
    assert words in sentence
    assert 0 < ids.generate_span_id() < 1 << 64

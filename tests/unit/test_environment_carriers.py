"""The span and the baggage that a program was started in, as its environment says."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.propagators.b3 import B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import get_current_span

from scalable.common.environment_carriers import read_environment, variable_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-03"


def read(warnings: list[str] | None = None, **environ: str):
    found = read_environment(environ, pytest.fail if warnings is None else warnings.append)
    return get_current_span(found).get_span_context(), dict(baggage.get_all(found))


def test_nothing_is_found_where_nothing_is_set():
    ids, found = read(PATH="/bin", TRACEPARENT="", BAGGAGE=" ")
    assert not ids.is_valid
    assert found == {}


@pytest.mark.parametrize("propagator", [None, CompositePropagator([]), B3SingleFormat()])
def test_span_state_and_baggage_are_read_whatever_is_configured(monkeypatch, propagator):
    if propagator is not None:
        monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", propagator)
    ids, found = read(TRACEPARENT=PARENT, TRACESTATE="ci=1,other=2", BAGGAGE="team=a,run=7;x=y")
    assert f"{ids.trace_id:032x}-{ids.span_id:016x}" == f"{TRACE}-{SPAN}"
    assert (ids.is_remote, ids.trace_flags) == (True, 3)
    assert dict(ids.trace_state) == {"ci": "1", "other": "2"}
    assert found == {"team": "a", "run": "7;x=y"}


def test_variables_of_the_configured_propagator_are_read_too(monkeypatch):
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", B3SingleFormat())
    assert f"{read(B3=f'{TRACE}-{SPAN}-1')[0].trace_id:032x}" == TRACE


@pytest.mark.parametrize(
    ("environ", "ignored"),
    [
        ({"TRACEPARENT": "anything"}, "TRACEPARENT"),
        ({"TRACEPARENT": f"00-{'0' * 32}-{SPAN}-01"}, "TRACEPARENT"),
        ({"TRACEPARENT": PARENT, "TRACESTATE": "no member"}, "TRACESTATE"),
        ({"BAGGAGE": "no value,team=a"}, "BAGGAGE"),
        ({"TRACEPARENT": "x" * 9_999, "BAGGAGE": "é"}, "TRACEPARENT, BAGGAGE"),
    ],
)
def test_malformed_values_are_ignored_with_one_warning(caplog, environ, ignored):
    warnings: list[str] = []
    with caplog.at_level(logging.DEBUG):
        ids, found = read(warnings, **environ)
    assert [sentence.rpartition(": ")[2] for sentence in warnings] == [ignored]
    assert caplog.records == []
    assert ids.is_valid == (ignored == "TRACESTATE")
    assert found == {}


def test_names_of_variables_are_those_of_the_specification():
    names = {"traceparent": "TRACEPARENT", "x-b3-traceid": "X_B3_TRACEID", "1x": "_1X"}
    assert {field: variable_of(field) for field in names} == names

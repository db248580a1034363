"""OTEL_* variables that OpenTelemetry cannot use are found, hidden from it, and told once."""

from __future__ import annotations

import os

import pytest

from scalable.common.otel_environment import usable, usable_environment

WRONG = [
    ("OTEL_PROPAGATORS", "tracecontext, pigeon,baggage", "tracecontext,baggage", "'pigeon'"),
    ("OTEL_PROPAGATORS", "xray", None, "'xray'"),
    ("OTEL_PYTHON_CONTEXT", "greenlets", None, "'greenlets'"),
    ("OTEL_PYTHON_TRACER_PROVIDER", "missing", None, "'missing'"),
    ("OTEL_PYTHON_METER_PROVIDER", "missing", None, "'missing'"),
    ("OTEL_PYTHON_LOGGER_PROVIDER", "missing", None, "'missing'"),
    ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "otel,planets", "otel", "'planets'"),
    ("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes", None, "always_on, always_off, trace_based"),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "lots", None, "whole number"),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-5", None, "whole number"),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", "1.5", None, "whole number"),
]


@pytest.mark.parametrize(("name", "value", "left", "words"), WRONG)
def test_unusable_values_are_removed_and_reported(name, value, left, words):
    environ = {name: value, "OTEL_SERVICE_NAME": "tides", "PATH": "/bin"}
    told: list[str] = []
    assert usable(environ, told.append) is False
    assert environ.get(name) == left
    assert {"OTEL_SERVICE_NAME": "tides", "PATH": "/bin"}.items() <= environ.items()
    [sentence] = told
    assert name in sentence
    assert words in sentence


@pytest.mark.parametrize("value", ["7", "-0.1", "nan", "half"])
def test_the_argument_of_a_sampler_of_ratios_is_one(value):
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": value}
    told: list[str] = []
    assert usable(environ, told.append) is False
    assert environ == {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    assert f"OTEL_TRACES_SAMPLER_ARG={value} is not a ratio" in told[0]
    of_another = {"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": value}
    assert usable(of_another) is True


def test_usable_values_stay_and_nothing_is_reported():
    environ = {
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "*",
        "OTEL_METRICS_EXEMPLAR_FILTER": "Trace_Based",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "",
        "OTEL_SPAN_LINK_COUNT_LIMIT": " 12 ",
        "OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider",
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    before = dict(environ)
    assert usable(environ, pytest.fail) is True
    assert environ == before
    assert usable({"OTEL_PROPAGATORS": "None"}) is True


def test_the_environment_is_as_it_was_after_the_block(monkeypatch):
    monkeypatch.setenv("OTEL_PROPAGATORS", "pigeon,tracecontext")
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "many")
    before = dict(os.environ)
    within: list[tuple[str | None, str | None]] = []

    def fail() -> None:
        names = ("OTEL_PROPAGATORS", "OTEL_SPAN_LINK_COUNT_LIMIT")
        within.append(tuple(os.environ.get(name) for name in names))
        raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"), usable_environment():
        fail()
    assert within == [("tracecontext", None)]
    assert dict(os.environ) == before


def test_blocks_of_several_threads_overlap(monkeypatch):
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "many")
    before = dict(os.environ)
    first, second = usable_environment(), usable_environment()
    with first:
        second.__enter__()
    assert "OTEL_SPAN_LINK_COUNT_LIMIT" not in os.environ, "the second block has not ended"
    second.__exit__(None, None, None)
    assert dict(os.environ) == before


def test_a_process_forked_within_a_block_has_all_variables(monkeypatch):
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "many")
    with usable_environment():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if os.environ.get("OTEL_SPAN_LINK_COUNT_LIMIT") == "many" else 1)
        assert os.waitpid(pid, 0)[1] == 0

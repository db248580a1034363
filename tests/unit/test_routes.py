"""Where signals go, by the variables and by the application's own providers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import TraceFlags, TraceState

from scalable.telemetry import semconv
from scalable.telemetry.configuration.resource import make_resource
from scalable.telemetry.configuration.routes import exception_signal, find_routes
from scalable.telemetry.signals.spans import span_context
from scalable_runs.redact import Redactor
from sites import installed

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
HTTP, GRPC = "otlp_proto_http", "otlp_proto_grpc"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def chosen(environ: dict[str, str]) -> dict[str, list[str]]:
    warnings: list[str] = []
    routes = find_routes(environ, warnings.append)
    assert warnings == []
    return {signal: [p.name for p in points] for signal, points in routes.exporters.items()}


@pytest.mark.parametrize(
    ("environ", "traces", "logs"),
    [
        ({}, None, None),
        ({ENDPOINT: "http://c:4318"}, [HTTP], [HTTP]),
        ({ENDPOINT: "http://c:4317"}, [GRPC], [GRPC]),
        (
            {ENDPOINT: "http://c:4317", PROTOCOL: "http/protobuf"},
            [HTTP],
            [HTTP],
        ),
        ({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"}, [HTTP], [GRPC]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317/v1"}, [GRPC], None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, [HTTP], None),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, [HTTP, "console"], None),
        ({ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"}, None, [HTTP]),
        ({"OTEL_TRACES_EXPORTER": "scalable_runs"}, None, None),
    ],
)
def test_variables(environ, traces, logs):
    found = chosen(environ)
    assert found.get("traces") == traces
    assert found.get("logs") == logs


def test_what_is_not_installed_is_named_with_the_way_out():
    warnings: list[str] = []
    environ = {ENDPOINT: "http://c", PROTOCOL: "http/xml"}
    routes = find_routes(environ, warnings.append)
    assert not routes.somewhere
    assert "'http/xml' that OTEL_* asks for is not installed" in warnings[0]


def test_without_an_exporter_for_json_the_other_encoding_of_http_is_used():
    warnings: set[str] = set()
    routes = find_routes({ENDPOINT: "http://c", PROTOCOL: "http/json"}, warnings.add)
    assert {point.name for points in routes.exporters.values() for point in points} == {HTTP}
    (sentence,) = warnings
    assert "http/json is not installed: http/protobuf is used" in sentence


def test_an_exporter_for_json_is_used_where_there_is_one(tmp_path: Path, monkeypatch):
    installed(
        monkeypatch, tmp_path, "opentelemetry_traces_exporter", "otlp_json_http = json:JSONEncoder"
    )
    environ = {"OTEL_TRACES_EXPORTER": "otlp", PROTOCOL: "http/json"}
    assert chosen(environ) == {"traces": ["otlp_json_http"]}


def test_a_configuration_file_without_its_extra_costs_one_warning(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.configuration.file", None)
    file = tmp_path / "otel.yaml"
    file.write_text('file_format: "1.0"')
    warnings: list[str] = []
    environ = {"OTEL_CONFIG_FILE": str(file), ENDPOINT: "http://c"}
    assert not find_routes(environ, warnings.append).somewhere
    (sentence,) = warnings
    assert "pip install 'scalable-otel[file-configuration]'" in sentence


def test_a_service_that_nobody_named_is_named_after_the_project():
    def name(base: Resource | None) -> object:
        made = make_resource("run-1", "tides", Redactor(), base)
        return made.attributes["service.name"]

    assert name(None) == "tides"
    assert name(Resource({"service.name": "unknown_service:python"})) == "tides"
    assert name(Resource({"service.name": "floods"})) == "floods"


def test_the_detector_names_the_service_unless_the_user_did(monkeypatch, tmp_path: Path):
    target = "scalable.resource_detector:ProjectResourceDetector"
    installed(monkeypatch, tmp_path, "opentelemetry_resource_detector", f"scalable = {target}")
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "scalable")
    monkeypatch.setenv("SCALABLE_PROJECT", "tides")
    attributes = Resource.create().attributes
    assert attributes["service.name"] == attributes[semconv.PROJECT] == "tides"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "floods")
    assert Resource.create().attributes["service.name"] == "floods"


def test_a_provider_that_is_given_wins_over_the_environment():
    tracers = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    meters = MeterProvider(shutdown_on_exit=False)
    routes = find_routes(
        {ENDPOINT: "http://c"}, pytest.fail, tracer_provider=tracers, meter_provider=meters
    )
    assert routes.providers == {"traces": tracers, "metrics": meters}
    assert list(routes.exporters) == ["logs"]
    assert routes.resource is tracers.resource
    assert not routes.sample(1, None).flags.sampled


def test_a_provider_that_makes_no_tracer_is_reported():
    class Other:
        def get_tracer(self) -> None: ...

    warnings: list[str] = []
    routes = find_routes({}, warnings.append, tracer_provider=Other())
    assert routes.providers == {}
    assert "Other cannot be used (TypeError" in warnings[0]


def test_resource_and_sampler_are_found_behind_a_wrapper():
    class Wrapper(trace.TracerProvider):
        def __init__(self, provider: trace.TracerProvider) -> None:
            self._provider = provider

        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            return self._provider.get_tracer(*args, **kwargs)

    tracers = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    routes = find_routes({}, pytest.fail, tracer_provider=Wrapper(tracers))
    assert routes.resource is tracers.resource
    assert not routes.sample(1, None).flags.sampled


def test_a_trace_follows_its_parent_and_keeps_its_other_flags():
    routes = find_routes({}, pytest.fail)
    assert routes.sample(1, None).flags.sampled
    assert routes.sample(1, span_context(1, 2, TraceFlags(3))).flags == 3
    assert routes.sample(1, span_context(1, 2, TraceFlags(2))).flags == 2


class _Marking(Sampler):
    """A sampler that says by which rule it has decided."""

    def should_sample(self, parent_context, trace_id, name, kind=None, *_, **__):
        state = TraceState([("rule", kind.name.lower())])
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"rule": name}, state)

    def get_description(self) -> str:
        return "Marking"


def test_what_a_sampler_adds_is_kept():
    tracers = TracerProvider(sampler=_Marking(), shutdown_on_exit=False)
    routes = find_routes({}, pytest.fail, tracer_provider=tracers)
    state = TraceState([("rule", "producer")])
    assert routes.sample(1, None) == (TraceFlags(1), state, {"rule": "submit"})


@pytest.mark.parametrize(
    ("text", "signal"),
    [("", "spans"), ("http", "spans"), ("logs", "logs"), ("http, logs/dup", "both")],
)
def test_exceptions_are_sent_as_the_opt_in_requests(text, signal):
    assert exception_signal({"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": text}) == signal

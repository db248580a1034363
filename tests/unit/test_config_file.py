"""What OpenTelemetry's configuration file says, for the recorder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.configuration")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.configuration.file import create_tracer_provider, load_config_file
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, ParentBased

from scalable.common.options import resolve
from scalable.common.otel_environment import configuration_file
from scalable.configured import configured_options
from scalable.telemetry.configuration.config_file import FileConfiguration, read_configuration
from scalable.telemetry.configuration.exporters import load_exporter
from scalable.telemetry.configuration.ids import find_id_generator
from scalable.telemetry.configuration.limits import AttributeLimits, SignalLimits
from scalable.telemetry.configuration.resource import make_resource
from scalable.telemetry.configuration.routes import Routes, find_routes
from scalable.telemetry.export.shipping import Limits
from scalable.telemetry.resend import destinations
from scalable.telemetry.resend.destinations import OtlpDestination
from scalable_runs.redact import Redactor
from sites import installed

WHOLE = """
file_format: "1.0"
resource:
  attributes:
    - {name: service.name, value: "${SERVICE:-floods}"}
    - {name: deployment.environment.name, value: test}
attribute_limits: {attribute_count_limit: 40, attribute_value_length_limit: 300}
propagator: {composite: [{tracecontext: {}}]}
tracer_provider:
  processors:
    - batch:
        schedule_delay: 250
        max_queue_size: 77
        exporter: {otlp_http: {endpoint: "http://127.0.0.1:4318/v1/traces"}}
    - simple: {exporter: {scalable_runs: {runs_dir: /data/runs, project: tides}}}
    - simple: {exporter: {console: {}}}
  limits: {attribute_count_limit: 30, event_count_limit: 9, link_attribute_count_limit: 4}
  sampler: {parent_based: {root: {always_off: {}}}}
  id_generator: {dated: {}}
meter_provider:
  exemplar_filter: always_off
  readers:
    - periodic:
        interval: 700
        exporter:
          otlp_http: {endpoint: "http://127.0.0.1:4318/v1/metrics", temporality_preference: delta}
  views: [{selector: {instrument_name: x}, stream: {name: y}}]
logger_provider:
  processors:
    - batch: {exporter: {otlp_grpc: {endpoint: "http://127.0.0.1:4317"}}}
  limits: {attribute_count_limit: 5}
instrumentation/development:
  python:
    dask: {span_budget: 12, project: seas}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(text: str, name: str = "otel.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setenv("OTEL_CONFIG_FILE", str(path))
        return path

    installed(
        monkeypatch,
        tmp_path / "site",
        "opentelemetry_id_generator",
        "dated = unit.test_ids:DatedIds",
    )
    return write


def read(path: Path) -> FileConfiguration:
    return read_configuration(str(path), os.environ)


def routes(warnings: list[str]) -> Routes:
    return find_routes(os.environ, warnings.append)


def test_all_parts_of_a_file_are_used(write, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    write(WHOLE)
    warnings: list[str] = []
    found = routes(warnings)
    assert {
        signal: [(each.name, each.portable, each.queue) for each in exporters]
        for signal, exporters in found.exporters.items()
    } == {
        "traces": [
            ("otlp_http", True, Limits(77, 77, 0.25)),
            ("console", False, Limits(10_000, 1, 0.0)),
        ],
        "metrics": [("otlp_http", True, None)],
        "logs": [("otlp_grpc", True, Limits(10_000, 512, 1.0))],
    }
    assert not found.portable
    assert isinstance(found.sampler, ParentBased)
    assert not found.sample(1, None).flags.sampled
    ids = find_id_generator(found.environ, found.id_generator, warnings.append)
    assert ids.generate_trace_id() >> 112 == 0x6789
    assert found.environ["OTEL_METRIC_EXPORT_INTERVAL"] == "700"
    assert found.environ["OTEL_METRICS_EXEMPLAR_FILTER"] == "always_off"
    assert found.environ["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"] == "delta"
    assert "OTEL_BSP_SCHEDULE_DELAY" not in found.environ
    resource = make_resource("run-1", "seas", Redactor(), found.resource)
    assert resource.attributes["service.name"] == "floods"
    assert resource.attributes["deployment.environment.name"] == "test"
    (sentence,) = warnings
    assert "views do not apply" in sentence


def test_the_exporters_are_those_that_the_sdk_makes(write):
    """The contract with the private factories of opentelemetry-configuration."""
    write(WHOLE)
    for signal, exporters in routes([]).exporters.items():
        for each in exporters:
            made = load_exporter(signal, each, pytest.fail)
            assert hasattr(made, "export")
            made.shutdown()


def test_limits_are_those_that_the_sdk_would_use(write):
    path = write(WHOLE)
    limits = read(path).limits
    assert limits == SignalLimits(
        AttributeLimits(30, 300),
        AttributeLimits(128, 300),
        AttributeLimits(4, 300),
        AttributeLimits(5, 300),
        9,
        128,
    )
    parsed = load_config_file(path)
    tracing = replace(parsed.tracer_provider, processors=[])
    try:
        sdk = create_tracer_provider(tracing, None, parsed.attribute_limits)
    except TypeError:
        pytest.skip("this version of the SDK does not apply attribute_limits")
    theirs = sdk._span_limits
    assert theirs.max_span_attributes == limits.span.number
    assert theirs.max_event_attributes == limits.event.number
    assert theirs.max_link_attributes == limits.link.number
    assert theirs.max_span_attribute_length == limits.span.length
    assert theirs.max_attribute_length == limits.event.length
    assert (theirs.max_events, theirs.max_links) == (limits.events, limits.links)
    sdk.shutdown()


def test_values_come_from_the_environment_where_the_file_says_so(write, monkeypatch):
    path = write(WHOLE)
    assert read(path).resource.attributes["service.name"] == "floods"
    monkeypatch.setenv("SERVICE", "rivers")
    assert read(path).resource.attributes["service.name"] == "rivers"


def test_signals_without_a_section_go_nowhere(write, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    write('file_format: "1.0"')
    found = routes([])
    assert not found.somewhere
    assert found.sampler is DEFAULT_ON


def test_the_providers_of_the_application_come_before_the_file(write):
    write(WHOLE)
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    found = find_routes(os.environ, lambda _: None, tracer_provider=provider)
    assert set(found.exporters) == {"metrics", "logs"}
    assert found.sampler is ALWAYS_OFF
    assert found.resource is provider.resource


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("file_format: [", "otel.yaml", "Failed to parse YAML"),
        ("", "otel.yaml", "is empty"),
        ('file_format: "9.0"', "otel.yaml", "9.0"),
        ("{}", "otel.json", "file_format"),
        ("x", "otel.txt", "Unsupported file format"),
        (
            'file_format: "1.0"\ntracer_provider: {sampler: {planets: {}}, processors: '
            "[{simple: {exporter: {console: {}}}}]}",
            "otel.yaml",
            "planets",
        ),
    ],
)
def test_a_file_that_cannot_be_used_costs_one_warning(write, caplog, text, name, words):
    write(text, name)
    warnings: list[str] = []
    assert not routes(warnings).somewhere
    assert not routes(warnings).somewhere
    assert len(set(warnings)) == 1
    assert words in warnings[0]
    assert "nothing is sent" in warnings[0]
    assert caplog.records == []
    assert configured_options() == {}


def test_a_file_that_is_not_there_costs_one_warning(write, tmp_path):
    write("", "gone.yaml").unlink()
    warnings: list[str] = []
    assert not routes(warnings).somewhere
    assert "No such file" in warnings[0]


def test_export_goes_where_the_file_says_unless_an_address_is_given(write, monkeypatch):
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        destinations, "find_routes", lambda environ, warn: made.append(environ) or routes([])
    )
    write(WHOLE)
    OtlpDestination(None).close()
    OtlpDestination("http://127.0.0.1:4318").close()
    assert "OTEL_CONFIG_FILE" in made[0]
    assert "OTEL_CONFIG_FILE" not in made[1]
    assert made[1]["OTEL_TRACES_EXPORTER"] == "otlp"


def test_an_exporter_that_cannot_be_made_costs_a_warning(write):
    write('file_format: "1.0"\ntracer_provider: {processors: [{simple: {exporter: {zipkin: {}}}}]}')
    (chosen,) = routes([]).exporters["traces"]
    warnings: list[str] = []
    assert load_exporter("traces", chosen, warnings.append) is None
    assert "'zipkin' cannot be used" in warnings[0]


def test_options_are_those_of_the_instrumentation_and_of_our_exporter(write, monkeypatch):
    write(WHOLE)
    options = configured_options()
    assert options == {"span_budget": 12, "project": "seas", "runs_dir": "/data/runs"}
    settings = resolve({"project": "given"}, {"SCALABLE_SPAN_BUDGET": "7"}, configured=options)
    assert settings.project == "given"
    assert settings.span_budget == 7
    assert settings.runs_dir == Path("/data/runs")
    assert resolve({}, {}, {"span_budget": 8}, options).span_budget == 8
    assert resolve({}, {}, configured=options).span_budget == 12


def test_a_wrong_option_in_the_file_costs_a_warning_and_the_others_stay(write, caplog):
    write(
        'file_format: "1.0"\n'
        "instrumentation/development: {python: {dask: {scope: all, colour: 3, parquet: true}}}"
    )
    assert configured_options() == {"parquet": True}
    assert "scope= cannot be 'all'" in caplog.text
    assert "no option 'colour'" in caplog.text


def test_a_file_that_disables_the_sdk_switches_the_record_off(write, monkeypatch):
    write('file_format: "1.0"\ndisabled: ${OFF:-false}')
    assert resolve({}, {}, configured=configured_options()).enabled
    monkeypatch.setenv("OFF", "true")
    assert not resolve({}, {}, configured=configured_options()).enabled
    assert resolve({"enabled": True}, {}, configured=configured_options()).enabled


def test_the_experimental_name_of_the_variable_is_known_too():
    assert configuration_file({}) == ""
    assert configuration_file({"OTEL_EXPERIMENTAL_CONFIG_FILE": "a.yaml"}) == "a.yaml"
    both = {"OTEL_EXPERIMENTAL_CONFIG_FILE": "a.yaml", "OTEL_CONFIG_FILE": "b.yaml"}
    assert configuration_file(both) == "b.yaml"


def test_the_file_in_the_documentation_is_valid(write, monkeypatch):
    monkeypatch.setenv("COLLECTOR", "http://collector:4318")
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    block = page.read_text().partition("<!-- configuration file -->\n```yml\n")[2]
    write(block.partition("```")[0])
    warnings: list[str] = []
    found = routes(warnings)
    assert warnings == []
    assert set(found.exporters) == {"traces", "metrics", "logs"}
    assert found.limits.span.length == 4096
    assert configured_options() == {"project": "floods", "span_budget": 2000}

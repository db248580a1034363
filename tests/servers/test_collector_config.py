"""The configurations in collector-config/: the real collector takes them and does what they say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode

from scalable.telemetry import semconv
from servers import install, otlp_json
from servers.harness import (
    Collector,
    ConfiguredCollector,
    Jaeger,
    Prometheus,
    http_get,
    wait_for,
    wait_until,
)

CONFIG = Path(__file__).parents[2] / "collector-config"
COLLECTORS = ["minimal.yaml", "jaeger.yaml", "grafana.yaml", "tail-sampling.yaml"]
COMPOSE = ["jaeger.compose.yaml", "grafana.compose.yaml"]
RESOURCE = Resource({"service.name": "floods", "scalable.run.id": "run-1"})


@pytest.fixture
def send() -> Iterator[Callable[[str], str]]:
    """Send one span, one metric and one log record over gRPC; the id of the trace."""
    with ExitStack() as stack:

        def to(endpoint: str) -> str:
            options: dict[str, Any] = {"endpoint": endpoint, "insecure": True}
            tracers = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
            tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(**options)))
            stack.callback(tracers.shutdown)
            meters = MeterProvider(
                [PeriodicExportingMetricReader(OTLPMetricExporter(**options), 3_600_000)],
                resource=RESOURCE,
                shutdown_on_exit=False,
            )
            stack.callback(meters.shutdown)
            loggers = LoggerProvider(RESOURCE, shutdown_on_exit=False)
            loggers.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(**options)))
            stack.callback(loggers.shutdown)
            with tracers.get_tracer("test").start_as_current_span("a span") as span:
                meters.get_meter("test").create_histogram("a.wait", "s").record(0.1)
                loggers.get_logger("test").emit(LogRecord(body="a record"))
            assert meters.force_flush()
            return f"{span.get_span_context().trace_id:032x}"

        yield to


@pytest.mark.parametrize("name", COLLECTORS)
def test_the_collector_accepts_the_file(collector: Collector, name: str):
    collector.validate(CONFIG / name)


def test_every_file_is_known_here():
    assert {path.name for path in CONFIG.glob("*.yaml")} == {*COLLECTORS, *COMPOSE}


@pytest.mark.parametrize("name", [*COLLECTORS, *COMPOSE])
def test_a_header_explains_purpose_and_start(name: str):
    header = "".join(
        line for line in (CONFIG / name).open() if line.startswith("#") or not line.strip()
    )
    assert "start it" in header.lower()
    assert "collector-config/" in header


@pytest.mark.parametrize("name", COLLECTORS)
def test_a_header_names_every_variable_of_the_file(name: str):
    text = (CONFIG / name).read_text()
    used = set(re.findall(r"\$\{env:(\w+)", text))
    assert used == set(re.findall(r"^# ([A-Z_]+)  +\w", text, re.MULTILINE))


def test_minimal_writes_all_signals_to_files(
    servers: Callable[..., Any], send: Callable[[str], str], tmp_path: Path
):
    files = tmp_path / "otlp"
    files.mkdir()
    collector = servers(ConfiguredCollector, CONFIG / "minimal.yaml", {"FILES": str(files)})
    trace_id = send(collector.grpc)
    (span,) = wait_for(1, lambda: otlp_json.spans(files / "traces.jsonl"), "span")
    assert span["trace_id"] == trace_id
    (point,) = wait_for(1, lambda: otlp_json.metric_points(files / "metrics.jsonl"), "point")
    assert point["name"] == "a.wait"
    (record,) = wait_for(1, lambda: otlp_json.log_records(files / "logs.jsonl"), "record")
    assert (record["body"], record["trace_id"]) == ("a record", trace_id)


def test_jaeger_gets_the_traces_and_nothing_is_refused(
    servers: Callable[..., Any], send: Callable[[str], str], jaeger: Jaeger
):
    collector = servers(
        ConfiguredCollector, CONFIG / "jaeger.yaml", {"JAEGER_ENDPOINT": jaeger.grpc}
    )
    trace_id = send(collector.grpc)
    (span,) = wait_for(1, lambda: jaeger.trace(trace_id), "span in Jaeger")
    assert (span["name"], span["service"]) == ("a span", "floods")
    assert jaeger.search("floods", operation="a span") == [trace_id]


def test_grafana_gets_each_signal_where_it_belongs(
    servers: Callable[..., Any],
    send: Callable[[str], str],
    start_collector: Callable[..., Collector],
    start_prometheus: Callable[..., Prometheus],
):
    # What takes OTLP over gRPC in Tempo's place, and over HTTP in Loki's.
    behind = start_collector()
    collector = servers(
        ConfiguredCollector,
        CONFIG / "grafana.yaml",
        {"TEMPO_ENDPOINT": behind.grpc, "LOKI_ENDPOINT": behind.http},
    )
    prometheus = start_prometheus(
        f"127.0.0.1:{collector.port(9464)}", f"127.0.0.1:{collector.port(8888)}"
    )
    trace_id = send(collector.grpc)

    (span,) = wait_for(1, behind.spans, "span")
    assert span["trace_id"] == trace_id
    (record,) = wait_for(1, behind.log_records, "record")
    assert (record["body"], record["trace_id"]) == ("a record", trace_id)
    assert behind.metric_points() == []
    (series,) = wait_until(lambda: prometheus.query("a_wait_seconds_count"), "the metric")
    labels = series["metric"]
    assert (labels["scalable_run_id"], labels["service_name"]) == ("run-1", "floods")
    assert not [label for label in labels if label.startswith("otel_scope")]
    (exemplar,) = wait_until(lambda: prometheus.exemplars("a_wait_seconds_bucket"), "the exemplar")
    assert exemplar["labels"]["trace_id"] == trace_id
    assert wait_until(
        lambda: prometheus.query('{__name__=~"otelcol_receiver_accepted_spans.*"}'),
        "the collector's own",
    )


def test_tail_sampling_keeps_failures_and_runs_of_what_it_would_leave_out(
    servers: Callable[..., Any], collector: Collector
):
    sampling = servers(
        ConfiguredCollector,
        CONFIG / "tail-sampling.yaml",
        {"BACKEND_ENDPOINT": collector.grpc, "DECISION_WAIT": "1s", "SHARE": "0"},
    )
    tracers = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=sampling.grpc, insecure=True)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = tracers.get_tracer("test")
    for name in ("left out", "fails", "run floods"):
        with tracer.start_as_current_span(f"submit {name}"):
            with tracer.start_as_current_span(name) as span:
                if name == "fails":
                    span.set_status(StatusCode.ERROR)
                if name == "run floods":
                    span.set_attribute(semconv.RUN_STATUS, "completed")
    tracers.shutdown()
    kept = wait_for(4, collector.spans, "spans of the traces that are kept")
    names = {"fails", "run floods"}
    assert {span["name"] for span in kept} == names | {f"submit {name}" for name in names}


def test_the_service_graph_goes_from_tempo_to_prometheus_to_grafana():
    tempo = yaml.safe_load((CONFIG / "grafana" / "tempo.yaml").read_text())
    (write,) = tempo["metrics_generator"]["storage"]["remote_write"]
    enabled = tempo["overrides"]["defaults"]["metrics_generator"]["processors"]
    assert {name.replace("-", "_") for name in enabled} == set(
        tempo["metrics_generator"]["processor"]
    )
    services = compose_of("grafana.compose.yaml")["services"]
    assert urlsplit(write["url"]).hostname in services
    assert "--web.enable-remote-write-receiver" in services["prometheus"]["command"]


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_asks_for_health_where_something_waits_for_it(name: str):
    services = compose_of(name)["services"]
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            waits = condition["condition"] == "service_healthy"
            assert waits <= ("healthcheck" in services[other])
    for service in services.values():
        test = service.get("healthcheck", {}).get("test", ["CMD"])
        assert test[0] == "CMD"  # no shell is needed


def test_versions_are_in_one_place():
    for path in [*CONFIG.rglob("*.yaml"), *CONFIG.parent.glob("docs/*.md")]:
        assert re.findall(r"[\w-]+/[\w-]+:v?\d+\.\d[\w.]*", path.read_text()) == [], path
    assert set(re.findall(r"\$\{(\w+_VERSION)", "".join(map(text_of, COMPOSE)))) == set(
        install.PINNED
    )


def text_of(name: str) -> str:
    return (CONFIG / name).read_text()


def compose_of(name: str) -> dict[str, Any]:
    """A file of Docker Compose, with the versions that it takes from .env."""

    def version(match: re.Match[str]) -> str:
        return install.PINNED[match[1]]

    return yaml.safe_load(re.sub(r"\$\{(\w+):\?[^}]*\}", version, text_of(name)))


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_pins_its_images_and_mounts_what_is_there(name: str):
    compose = compose_of(name)
    for service in compose["services"].values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (CONFIG / source).exists(), source
            else:
                assert source in compose["volumes"]
        # Nobody asks for a password: nobody but this machine may come in.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_sets_variables_that_the_collector_reads(name: str):
    service = yaml.safe_load((CONFIG / name).read_text())["services"]["collector"]
    (mount,) = service["volumes"]
    source, target, _ = mount.split(":")
    assert service["command"] == [f"--config={target}"]
    used = set(re.findall(r"\$\{env:(\w+)", (CONFIG / source).read_text()))
    assert set(service["environment"]) == used


def test_prometheus_scrapes_the_ports_that_the_collector_opens():
    jobs = yaml.safe_load((CONFIG / "grafana" / "prometheus.yaml").read_text())["scrape_configs"]
    targets = {target for job in jobs for one in job["static_configs"] for target in one["targets"]}
    collector = yaml.safe_load((CONFIG / "grafana.yaml").read_text())
    (reader,) = collector["service"]["telemetry"]["metrics"]["readers"]
    assert targets == {
        f"collector:{collector['exporters']['prometheus']['endpoint'].rsplit(':', 1)[1]}",
        f"collector:{reader['pull']['exporter']['prometheus']['port']}",
    }


def test_provisioned_datasources_lead_to_each_other_and_dashboards_are_found():
    provisioning = CONFIG / "grafana" / "provisioning"
    text = (provisioning / "datasources" / "scalable.yaml").read_text()
    sources = {source["type"]: source for source in yaml.safe_load(text)["datasources"]}
    uids = {source["uid"] for source in sources.values()}
    assert set(re.findall(r"datasourceUid: ([\w-]+)", text)) == uids
    assert set(sources) == {"prometheus", "tempo", "loki"}
    compose = compose_of("grafana.compose.yaml")
    for source in sources.values():
        host = re.fullmatch(r"http://(\w+):\d+", source["url"])
        assert host is not None
        assert host[1] in compose["services"]
    providers = yaml.safe_load((provisioning / "dashboards" / "scalable.yaml").read_text())
    mounts = dict(
        reversed(mount.split(":")[:2]) for mount in compose["services"]["grafana"]["volumes"]
    )
    (provider,) = providers["providers"]
    folder = CONFIG / mounts[provider["options"]["path"]]
    assert list(folder.glob("*.json"))
    home = compose["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert (folder / Path(home).name).exists()


def test_no_answer_is_status_zero():
    assert http_get("http://127.0.0.1:1/") == (0, b"")

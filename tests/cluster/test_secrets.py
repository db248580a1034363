"""What the program knows to be secret reaches no file of a run and nothing that is sent."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path
from time import time_ns
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import wait
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import scalable
from cluster import oracle
from scalable.cli import cli
from scalable.records import record_artifact, record_cost, record_metric

#: The value of a variable whose name says secret.
KNOWN = "Zx9-known-31-value"
#: One of six characters, known as well.
SHORT = "hunt3r"
#: Values under keys that say secret.
UNDER_A_KEY = "under_a_key_only"


def leak(known: str) -> str:
    """Say a secret in every way that the code of a task has."""
    under = UNDER_A_KEY
    tracer = trace.get_tracer(f"tracer {known}", f"version {known}")
    ids = trace.SpanContext(7, 8, True, trace.TraceFlags(1))
    with tracer.start_as_current_span(
        f"span {known}",
        attributes={"db.password": under, "text": known, f"name {known}": 1, "list": ["a", known]},
        links=[trace.Link(ids, {"why": known, "api_key": under})],
    ) as span:
        span.add_event(f"event {known}", {"why": known, "auth.token": under})
        try:
            raise KeyError(known)
        except KeyError as error:
            span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, f"status {known}")
    meter = metrics.get_meter(f"meter {known}")
    labels = {"label": known, "password": under, f"label {known}": "x"}
    meter.create_counter(f"count.{known}", f"{{{known}}}", f"counts {known}").add(1, labels)
    meter.create_histogram(f"histogram.{known}").record(1.0, labels)
    meter.create_gauge("gauge").set(2.0, labels)
    logging.getLogger(f"logger {known}").warning(
        "body %s", known, extra={"password": under, "note": known, "more": {"x": known}}
    )
    try:
        raise RuntimeError(known)
    except RuntimeError:
        logging.getLogger("app").exception("failed")
    _logs.get_logger(f"logs {known}").emit(
        LogRecord(
            timestamp=time_ns(),
            severity_text=known,
            severity_number=SeverityNumber.WARN,
            body={"nested": {"password": under, "list": [known, {"pwd": under}]}, known: 1},
            attributes={"client_secret": under, "why": known},
            event_name=f"event.{known}",
        )
    )
    record_artifact(
        f"memory://bucket/{known}/x",
        name=f"artifact {known}",
        kind=f"kind {known}",
        digest=False,
        metadata={"password": under, "deep": [{"token": under}, known]},
    )
    record_cost(
        1.0,
        provider=f"provider {known}",
        region=f"region {known}",
        line_items=[{"name": known, "api_key": under}],
        metadata={"password": under, "note": known},
    )
    record_metric(f"number.{known}", 1.0, attributes={"password": under, "label": known})
    return known


def fail(known: str) -> None:
    local = base64.b64encode(f"user:{known}".encode()).decode()
    error = ValueError(f"{known} {SHORT} and in base64 {local}")
    error.add_note(f"note {known}")
    try:
        raise OSError(5, known, f"/data/{known}")
    except OSError as cause:
        raise error from cause


def die(known: str, marker: str) -> None:
    print(f"stdout {known} password=hunter22-x", flush=True)
    os.write(2, f"stderr {known}\n".encode())
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), 9)


def do_all(client: Any, tmp_path: Path) -> list[str]:
    """Use every channel; returns the keys that hold a secret."""
    with trace.get_tracer("program").start_as_current_span(f"caller {KNOWN}"):
        leaked = client.submit(leak, KNOWN, key=f"leak-{KNOWN}", pure=False)
        leaked.result()
    twins = [client.submit(len, [n], key=f"twin-{KNOWN}-{n}") for n in range(3)]
    after = client.submit(sum, twins, key=f"sum-{KNOWN}")
    failed = client.submit(fail, KNOWN, key=("fail", KNOWN, 1))
    blamed = client.submit(str, failed, key=f"blamed-{KNOWN}")
    client.submit(die, KNOWN, str(tmp_path / "died"), key=f"die-{KNOWN}").result()
    wait([after, failed, blamed])
    record_cost(2.0, provider=KNOWN, metadata={"password": UNDER_A_KEY})
    return [future.key for future in (leaked, *twins, after, failed, blamed)]


def hidden_from(text: str, place: str) -> None:
    forms = {
        KNOWN: "the known value",
        UNDER_A_KEY: "a value under a key that says secret",
        "hunter22-x": "a password in the last output",
        base64.b64encode(f"user:{KNOWN}".encode()).decode(): "the known value in base64",
    }
    for form, what in forms.items():
        at = text.find(form)
        assert at < 0, f"{place} has {what}: {text[max(0, at - 200) : at + 100]!r}"
    assert f" {SHORT} " not in text, f"{place} has the short value"


def search(run_dir: Path) -> None:
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(files) > 12
    for path in files:
        hidden_from(path.read_text(encoding="utf-8", errors="replace"), path.name)
        hidden_from(str(path), "a path")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PWD", KNOWN)
    monkeypatch.setenv("OTHER_PASS", SHORT)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"team={KNOWN},db.password={UNDER_A_KEY}")


def test_no_channel_into_the_directory_or_an_export_has_a_secret(make_cluster, tmp_path):
    _, client = make_cluster(n_workers=2)
    with scalable.instrument(client, runs_dir=tmp_path / "runs", project="secrets") as run:
        keys = do_all(client, tmp_path)
    search(run.run_dir)
    # Who redacts a key does not lose a task: each has an id of its own, on all of its lines.
    lives = oracle.lives(run.run_dir)
    assert len(lives) == len(keys) + 1
    lines = oracle.read(run.run_dir, "tasks.jsonl")
    finals = [life[-1]["state"] for life in lives.values()]
    assert sorted(finals) == ["failed"] * 2 + ["succeeded"] * 6
    total = next(line for line in lines if line["task_id"].startswith("sum-"))
    assert set(total["dependencies"]) < set(lives)
    (blamed,) = (line for line in lines if "blame" in line)
    assert lives[blamed["blame"]][-1]["state"] == "failed"
    spans = oracle.read(run.run_dir, "spans.jsonl")
    keys_of_spans = {span["attributes"].get("dask.task.key") for span in spans} - {None}
    assert keys_of_spans
    assert keys_of_spans <= set(lives)
    exported = tmp_path / "otlp.jsonl"
    runs = ["--run-id", run.run_id, "--runs-dir", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli, ["export", *runs, "--file", str(exported)])
    assert done.exit_code == 0, done.output
    hidden_from(exported.read_text(), "the export")


def test_no_channel_to_the_applications_providers_has_a_secret(make_cluster, tmp_path):
    _, client = make_cluster(n_workers=2)
    spans, logs, reader = (
        InMemorySpanExporter(),
        InMemoryLogRecordExporter(),
        InMemoryMetricReader(),
    )
    # What the application says of itself is its own business.
    own = Resource({})
    tracers = TracerProvider(resource=own)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers = LoggerProvider(resource=own)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    with scalable.instrument(
        client,
        runs_dir=tmp_path / "runs",
        tracer_provider=tracers,
        logger_provider=loggers,
        meter_provider=MeterProvider([reader], resource=own),
        task_events=True,
        running_after=0.001,
    ) as run:
        do_all(client, tmp_path)
    search(run.run_dir)
    for span in spans.get_finished_spans():
        hidden_from(span.to_json(), f"the span {span.name}")
    for log in logs.get_finished_logs():
        hidden_from(log.to_json(), "a log record")
    data = reader.get_metrics_data()
    assert data is not None
    hidden_from(data.to_json(), "metrics")
    assert len(spans.get_finished_spans()) > 5


MANIFEST = """\
version: 1
project: {name: secrets}
targets:
  here: {provider: local, max_workers: 1}
components:
  io:
    cpus: 1
    env: {COMPONENT_PASSWORD: component-value-7, MODE: plainmode, MYSQL_PWD: sq1pwd}
"""


def say(*names: str) -> None:
    raise ValueError(" ".join(os.environ.get(name, "") for name in names))


def test_secret_values_of_a_manifest_are_hidden_in_texts_of_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scalable.yaml").write_text(MANIFEST)
    with scalable.ScalableSession.from_yaml("scalable.yaml") as session:
        names = ("COMPONENT_PASSWORD", "MODE", "MYSQL_PWD")
        future = session.client.submit(say, *names, tag="io")
        with pytest.raises(ValueError, match="component-value-7 plainmode sq1pwd"):
            future.result()
    (run_dir,) = (tmp_path / ".scalable/runs").iterdir()
    text = "".join(p.read_text(errors="replace") for p in run_dir.rglob("*") if p.is_file())
    assert "component-value-7" not in text
    assert "sq1pwd" not in text
    (failure,) = oracle.read(run_dir, "failures.jsonl")
    assert failure["message"] == "[redacted] plainmode [redacted]"

"""No OTEL_* variable ends the program, a task or the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WRONG = {
    "OTEL_PROPAGATORS": "tracecontext,pigeon",
    "OTEL_PYTHON_CONTEXT": "greenlets",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "planets",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "lots",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-5",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "lots",
    "OTEL_METRICS_EXEMPLAR_FILTER": "sometimes",
    "OTEL_TRACES_SAMPLER": "traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "7",
    "OTEL_TRACES_EXPORTER": "otlp,zipkin",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "tight",
    "OTEL_BSP_MAX_QUEUE_SIZE": "-4",
    "OTEL_METRIC_EXPORT_INTERVAL": "-1",
    "OTEL_RESOURCE_ATTRIBUTES": "a=b,,c,=d,e=%zz",
}
#: OpenTelemetry itself raises for these when an application's own code asks for a provider.
PROVIDERS = {
    "OTEL_PYTHON_TRACER_PROVIDER": "missing",
    "OTEL_PYTHON_METER_PROVIDER": "missing",
}
PROGRAM = """
    import sys
    from distributed import Client

    import scalable

    def traced(number):
        if "spans" in sys.argv:
            from opentelemetry import metrics, trace

            with trace.get_tracer("mine").start_as_current_span("within"):
                metrics.get_meter("mine").create_counter("seen").add(1)
        return number

    if __name__ == "__main__":
        with Client(n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
            with scalable.instrument(client, close_timeout=20) as run:
                print(sum(client.gather(client.map(traced, range(20)))))
            print(run.run_dir)
"""


@pytest.mark.parametrize(
    ("variables", "recorder", "arguments"),
    [(WRONG, "process", ["spans"]), (WRONG, "thread", ["spans"]), (PROVIDERS, "process", [])],
    ids=["process", "thread", "providers"],
)
def test_wrong_variables_cost_one_warning(tmp_path, variables, recorder, arguments):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    environment = {name: value for name, value in os.environ.items() if name[:5] != "OTEL_"}
    environment |= {
        **variables,
        "SCALABLE_RECORDER": recorder,
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
    }
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("OpenTelemetry cannot use these variables") == 1
    result, run_dir = done.stdout.split()
    assert result == "190"
    document = json.loads((Path(run_dir) / "run.json").read_text())
    assert document["status"] == "completed"
    assert not document["telemetry"]["errors"]
    states = [
        json.loads(line)["state"]
        for line in (Path(run_dir) / "tasks.jsonl").read_text().splitlines()
    ]
    assert states.count("running") == states.count("succeeded") == 20
    exported = subprocess.run(
        [sys.executable, "-m", "scalable", "export", "--file", "run.otlp.jsonl"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert exported.returncode == 0, exported.stderr
    assert exported.stderr.count("OpenTelemetry cannot use these variables") == 1
    if arguments:
        assert "within" in (Path(run_dir) / "spans.jsonl").read_text()

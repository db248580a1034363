"""The dashboards: in step with the code, made for people, and every query answered with data."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from scalable.telemetry import instruments
from servers.harness import Collector, Prometheus, wait_until

CONFIG = Path(__file__).parents[2] / "collector-config"
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in CONFIG.glob("grafana/dashboards/*.json")
}


@pytest.fixture(scope="module")
def code() -> ModuleType:
    """The module that makes the dashboards."""
    pytest.importorskip("grafana_foundation_sdk")
    spec = importlib.util.spec_from_file_location("dashboards", CONFIG / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels but the headings of rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def all_panels() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name}: {panel['title']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
    ]


def test_the_files_are_what_the_code_makes(code: ModuleType):
    assert {f"{name}.json" for name in DASHBOARDS} == set(code.DASHBOARDS)
    stale = [
        name for name in code.DASHBOARDS if (code.FOLDER / name).read_text() != code.rendered(name)
    ]
    assert stale == [], "`make docs` writes them anew"


@pytest.mark.parametrize("panel", all_panels())
def test_a_panel_has_a_description_and_a_unit(panel: dict[str, Any]):
    assert panel["title"]
    assert panel["description"].endswith(".")
    names = [target["refId"] for target in panel["targets"]]
    assert all(names)
    assert len(names) == len(set(names))
    defaults = panel["fieldConfig"]["defaults"] if "fieldConfig" in panel else {}
    if panel["type"] in ("timeseries", "stat", "bargauge"):
        assert defaults["unit"]
        assert defaults.get("noValue")
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"]
        assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_dashboard_lets_one_choose_service_and_run_and_go_to_the_others(name: str):
    dashboard = DASHBOARDS[name]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {"service", "run", "prometheus", "tempo", "loki"} <= variables
    (link,) = dashboard["links"]
    assert (link["type"], link["includeVars"], link["keepTime"]) == ("dashboards", True, True)
    assert set(link["tags"]) <= set(dashboard["tags"])
    ids = [panel["id"] for panel in dashboard["panels"] if "id" in panel]
    assert len(ids) == len(set(ids))


def test_ways_lead_from_the_run_to_its_traces():
    text = json.dumps(DASHBOARDS["run"])
    assert '"exemplar": true' in text
    assert "/explore?schemaVersion=1" in text
    assert "${__data.fields.Task}" in text  # not encoded: Grafana has to find it


def test_metrics_have_the_names_in_prometheus_that_the_dashboards_use(
    code: ModuleType,
    collector: Collector,
    start_prometheus: Callable[..., Prometheus],
):
    prometheus = start_prometheus(collector.prometheus_target)
    exporter = OTLPMetricExporter(endpoint=f"{collector.http}/v1/metrics")
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)],
        resource=Resource({"service.name": "a service", "scalable.run.id": "a run"}),
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("scalable")
    makers = {
        "counter": lambda i: meter.create_counter(i.name, i.unit).add,
        "updowncounter": lambda i: meter.create_up_down_counter(i.name, i.unit).add,
        "gauge": lambda i: meter.create_gauge(i.name, i.unit).set,
        "histogram": lambda i: meter.create_histogram(i.name, i.unit).record,
    }
    wanted: set[str] = set()
    for instrument in instruments.INSTRUMENTS:
        makers[instrument.kind](instrument)(1, dict.fromkeys(instrument.attributes, "x"))
        parts = ("bucket", "sum", "count") if instrument.kind == "histogram" else ("",)
        wanted.update(code.series_name(instrument, part) for part in parts)
    try:
        provider.force_flush()
        # The names of a scrape appear one by one, so that the first answer may hold some of them.
        wait_until(
            lambda: wanted <= set(prometheus.label_values("__name__", '{scalable_run_id="a run"}')),
            f"all of {sorted(wanted)} in Prometheus",
        )
    finally:
        provider.shutdown()
    query = code.series_name(instruments.TASK_RETRIES)
    (series,) = wait_until(lambda: prometheus.query(query), query)
    assert series["metric"]["service_name"] == "a service"
    assert series["metric"]["dask_task_name"] == "x"
    # It was exported once, so that its rate is zero or, with one scrape, unknown.
    now = time.time()
    values = prometheus.query_range(code.growth(query, "30s"), now - 20, now, 1)[0]["values"]
    assert max(value for _, value in values) == 1
    assert all(found["value"] == 0 for found in prometheus.query(f"rate({query}[30s])"))

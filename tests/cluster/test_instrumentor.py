"""DaskInstrumentor: each client as it is made, and nothing half done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from scalable.autoinstrument import DaskInstrumentor
from scalable.common.options import OptionError
from scalable_runs.reader import find_runs
from sites import installed

ORIGINALS = {name: Client.__dict__[name] for name in ("__init__", "_start")}


@pytest.fixture
def instrumentor() -> Iterator[DaskInstrumentor]:
    instrumentor = DaskInstrumentor()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    assert {name: Client.__dict__[name] for name in ORIGINALS} == ORIGINALS


def quiet(**more: Any) -> dict[str, Any]:
    return {"dashboard_address": ":0", "processes": False, **more}


def test_each_client_is_recorded_and_uninstrument_ends_it(instrumentor, tmp_path: Path):
    instrumentor.instrument(project="auto")
    with LocalCluster(n_workers=1, **quiet()) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
        instrumentor.uninstrument()
        (run,) = find_runs(tmp_path / ".scalable" / "runs")
        assert run.status == "completed"
        with Client(cluster) as other:
            assert other.submit(sum, [1, 3]).result() == 4
    assert len(find_runs(tmp_path / ".scalable" / "runs")) == 1


def test_clients_on_an_event_loop_are_recorded_too(instrumentor, tmp_path: Path):
    async def work() -> int:
        async with LocalCluster(n_workers=1, asynchronous=True, **quiet()) as cluster:
            async with Client(cluster, asynchronous=True) as client:
                return await client.submit(sum, [1, 2])

    instrumentor.instrument()
    assert asyncio.run(work()) == 3
    (run,) = find_runs(tmp_path / ".scalable" / "runs")
    assert run.summary()["counts"]["tasks_succeeded"] == 1


def test_a_failure_half_way_leaves_dask_as_it_was(instrumentor, monkeypatch):
    def fail(*_: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(DaskInstrumentor, "_start", fail)
    with pytest.raises(RuntimeError, match="planted"):
        instrumentor.instrument()
    assert not instrumentor.is_instrumented_by_opentelemetry


def test_a_wrong_option_is_reported_where_it_is_given(instrumentor):
    with pytest.raises(OptionError, match="scope= cannot be 'all'"):
        instrumentor.instrument(scope="all")


def test_arguments_for_other_instrumentors_are_accepted(instrumentor, tmp_path: Path):
    instrumentor.instrument(project="auto", request_hook=print, excluded_urls="health")
    with LocalCluster(n_workers=1, **quiet()) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    (run,) = find_runs(tmp_path / ".scalable" / "runs")
    assert "-auto-" in run.run_id


def test_a_configuration_file_activates_it_with_options(
    instrumentor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = pytest.importorskip("opentelemetry.configuration")
    target = "scalable.autoinstrument:DaskInstrumentor"
    installed(monkeypatch, tmp_path, "opentelemetry_instrumentor", f"dask = {target}")
    file = tmp_path / "otel.yaml"
    file.write_text(
        'file_format: "1.0"\n'
        "instrumentation/development:\n"
        f"  python: {{dask: {{project: seas, runs_dir: {tmp_path / 'there'}, recorder: thread}}}}\n"
    )
    # What configures the SDK calls this, and sets what holds for the whole process besides.
    activate = import_module("opentelemetry.configuration.instrumentation")
    parsed = package.load_config_file(file)
    activate.configure_instrumentation(parsed.instrumentation_development)
    assert instrumentor.is_instrumented_by_opentelemetry
    with LocalCluster(n_workers=1, **quiet()) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    (run,) = find_runs(tmp_path / "there")
    assert "-seas-" in run.run_id


def test_a_configuration_file_can_switch_it_off(
    instrumentor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("opentelemetry.configuration")
    file = tmp_path / "otel.yaml"
    file.write_text(
        'file_format: "1.0"\ninstrumentation/development: {python: {dask: {enabled: false}}}\n'
    )
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(file))
    # As `opentelemetry-instrument` does, whatever the file says.
    instrumentor.instrument(skip_dep_check=True)
    with LocalCluster(n_workers=1, **quiet()) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert not (tmp_path / ".scalable").exists()


def test_a_client_that_cannot_be_recorded_works_all_the_same(
    instrumentor, monkeypatch, caplog: pytest.LogCaptureFixture
):
    instrumentor.instrument()
    monkeypatch.setenv("SCALABLE_SCOPE", "all")
    with LocalCluster(n_workers=1, **quiet()) as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert "SCALABLE_SCOPE cannot be 'all'" in caplog.text

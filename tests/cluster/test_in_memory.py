"""A run on a real cluster, recorded in memory: whole lines but for what is measured."""

from __future__ import annotations

from pathlib import Path

from distributed import Client, LocalCluster

from scalable.testing import MEASURED, record_in_memory
from scalable_runs import schema


def boom() -> None:
    raise ValueError("planted")


def test_a_run_on_a_cluster_is_recorded_in_memory():
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        with record_in_memory(client, project="tides") as run:
            assert client.submit(pow, 2, 3, key="power").result() == 8
            assert run.instrumentation.flush()
            assert run.reader.status == "running"
            assert isinstance(client.submit(boom, key="boom").exception(), ValueError)
    assert run.reader.status == "completed"
    head = {"schema_version": 1, "run_id": run.run_id, "event_type": "task"}
    power = {**head, "task_id": "power", "task_name": "power", "function_name": "pow"}
    lines = run.lines(schema.TASKS, without=MEASURED)
    assert [line for line in lines if line["task_id"] == "power"] == [
        {
            **power,
            "state": "submitted",
            "attempt": 0,
        },
        {**power, "state": "running", "attempt": 1},
        {
            **power,
            "state": "succeeded",
            "attempt": 1,
            "nbytes": 28,
            "result_type": "int",
            "parent_span_id": f"{2:016x}",
        },
    ]
    (failure,) = run.lines(schema.FAILURES, without=MEASURED)
    assert failure["message"] == "planted"
    assert failure["failure_class"] == "ValueError"
    assert {"power", "boom", "run tides"} < {span.name for span in run.signals.spans}
    assert list(Path().iterdir()) == []

"""The resource of what a worker relays is that of its own process and host."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any
from uuid import UUID

import pytest
from distributed import get_worker
from opentelemetry import trace

import scalable
from cluster import oracle

CLIENT = (
    "service.name=floods,deployment.environment.name=test,service.instance.id=client-1,"
    "host.id=driver-host,k8s.pod.name=driver-pod,process.command=driver"
)


def inside(name: str) -> tuple[int, str]:
    with trace.get_tracer("user").start_as_current_span(name):
        logging.getLogger("user").warning(name)
    return os.getpid(), threading.current_thread().name


def resources_of(run: Any, file: str, field: str, value: str) -> list[dict[str, Any]]:
    found = [it for it in oracle.read(run.run_dir, file) if it.get(field) == value]
    return [record["resource"] for record in found]


def test_a_worker_describes_itself(make_cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", CLIENT)
    env = {
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=worker-pod",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process,host,otel",
    }
    _, client = make_cluster(n_workers=2, env=env)
    with scalable.instrument(client) as run:
        answers = client.gather(
            [
                client.submit(inside, f"on {number}", workers=[worker], pure=False)
                for number, worker in enumerate(client.nthreads())
            ]
        )
    instances: set[str] = set()
    for number, (pid, _) in enumerate(answers):
        (resource,) = resources_of(run, "spans.jsonl", "name", f"on {number}")
        assert [resource] == resources_of(run, "logs.jsonl", "body", f"on {number}")
        assert resource["process.pid"] == pid
        assert resource["process.command"] != "driver"
        assert resource["host.name"] == socket.gethostname()
        assert resource["k8s.pod.name"] == "worker-pod"
        assert resource.get("host.id") != "driver-host"
        assert (resource["service.name"], resource["deployment.environment.name"]) == (
            "floods",
            "test",
        )
        assert resource["scalable.run.id"] == run.run_id
        instances.add(str(UUID(resource["service.instance.id"])))
    assert len(instances) == 2
    hosts = {line["details"]["host"] for line in oracle.read(run.run_dir, "workers.jsonl")}
    assert hosts == {socket.gethostname()}


def test_workers_that_inherit_the_environment_of_the_client_are_other_instances(
    make_cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", CLIENT)
    _, client = make_cluster(n_workers=2)
    with scalable.instrument(client) as run:
        futures = [
            client.submit(inside, f"on {number}", workers=[worker], pure=False)
            for number, worker in enumerate(client.nthreads())
        ]
        client.gather(futures)
    found = [resources_of(run, "spans.jsonl", "name", f"on {number}")[0] for number in range(2)]
    instances = {str(UUID(resource["service.instance.id"])) for resource in found}
    assert len(instances) == 2


def test_a_worker_in_the_process_of_the_client_is_the_same_instance(
    make_cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", CLIENT)
    _, client = make_cluster(n_workers=1, processes=False)
    with scalable.instrument(client) as run:
        client.submit(inside, "here").result()
    (resource,) = resources_of(run, "logs.jsonl", "body", "here")
    assert resource["process.pid"] == os.getpid()
    assert resource["service.instance.id"] == "client-1"
    assert resource["dask.worker.address"]


def slow_detector_answers() -> None:
    import time

    from scalable.instrumentation.process_resource import process_resource

    resource = process_resource()
    resource.is_complete = False  # as while a detector waits for a service of a cloud
    with trace.get_tracer("user").start_as_current_span("early"):
        pass
    get_worker()
    time.sleep(0)


def test_what_waits_for_detectors_is_part_of_the_run(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(slow_detector_answers).result()
    (resource,) = resources_of(run, "spans.jsonl", "name", "early")
    assert resource["process.pid"]

"""Rules on resources: who sent a signal, of which run, and by which conventions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from scalable.telemetry import semconv
from servers.checker.model import Finding, Item, Received, is_own, kind_of, shown

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_URL = re.compile(r"https?://\S+/\d+\.\d+\.\d+")


def services_have_a_name(received: Received) -> Iterator[Finding]:
    """Each resource names its service, and is not the default that says nothing."""
    for resource, _ in received.resources:
        name = resource.get("service.name", "")
        if not name or name.startswith("unknown_service"):
            yield Finding("service.name", _resource(resource), f"is {name!r}")


def instances_are_uuids(received: Received) -> Iterator[Finding]:
    """The id of a service's instance is a UUID, and belongs to one process."""
    processes: defaultdict[str, set[int]] = defaultdict(set)
    instances: defaultdict[int, set[str]] = defaultdict(set)
    for resource, _ in received.resources:
        instance = str(resource.get(semconv.SERVICE_INSTANCE, ""))
        if not _UUID.fullmatch(instance):
            message = f"{semconv.SERVICE_INSTANCE} is {instance!r}, not a UUID"
            yield Finding("instances", _resource(resource), message)
        elif semconv.PROCESS_PID in resource:
            processes[instance].add(resource[semconv.PROCESS_PID])
            instances[resource[semconv.PROCESS_PID]].add(instance)
    for instance, pids in processes.items():
        if len(pids) > 1:
            yield Finding("instances", instance, f"belongs to the processes {sorted(pids)}")
    for pid, names in instances.items():
        if len(names) > 1:
            yield Finding("instances", f"process {pid}", f"has the ids {sorted(names)}")


def there_is_one_host(received: Received) -> Iterator[Finding]:
    """All resources that name their host name the same: the cluster ran on one."""
    hosts = {resource.get(semconv.HOST_NAME) for resource, _ in received.resources} - {None}
    if len(hosts) > 1:
        yield Finding("host.name", "all resources", f"has the values {sorted(map(str, hosts))}")


def own_signals_name_their_run(received: Received) -> Iterator[Finding]:
    """Spans, points and records of the package have run and project, or their resource has."""
    seen: set[tuple[str, str]] = set()
    for item in (*received.spans, *received.points, *received.records):
        if not is_own(item):
            continue
        for name in (semconv.RUN_ID, semconv.PROJECT):
            if name not in item["resource"] and name not in item["attributes"]:
                kind = item.get("name") or item.get("event_name", "")
                if (kind, name) not in seen:
                    seen.add((kind, name))
                    yield Finding("run", shown(item), f"has no {name}, nor has its resource")


def schemas_are_named(received: Received) -> Iterator[Finding]:
    """The scope of own signals, and resources of the run, name the conventions of their names."""
    urls: set[str] = set()
    seen: set[str] = set()
    for item in (*received.spans, *received.points, *received.records):
        if is_own(item):
            urls.add(item["scope_schema_url"])
            kind = kind_of(item)
            if not _URL.fullmatch(item["scope_schema_url"]) and kind not in seen:
                seen.add(kind)
                message = f"the schema URL of its scope is {item['scope_schema_url']!r}"
                yield Finding("schema URL", shown(item), message)
    if len(urls) > 1:
        yield Finding("schema URL", f"scope {semconv.SCOPE_NAME}", f"has {sorted(urls)}")
    for resource, url in received.resources:
        if semconv.RUN_ID in resource and not _URL.fullmatch(url):
            message = f"the schema URL of the resource is {url!r}"
            yield Finding("schema URL", _resource(resource), message)


RULES = (
    services_have_a_name,
    instances_are_uuids,
    there_is_one_host,
    own_signals_name_their_run,
    schemas_are_named,
)


def _resource(resource: Item) -> str:
    names = ("service.name", semconv.SERVICE_INSTANCE, semconv.WORKER_ADDRESS)
    parts = [f"{name}={resource[name]}" for name in names if name in resource]
    return f"resource {' '.join(parts) or resource}"

"""The resource of a run: what its signals say of the program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import uuid4

from opentelemetry.sdk.resources import Resource

from scalable.telemetry import semconv
from scalable_runs.redact import Redactor


def make_resource(
    run: str, project: str, redact: Redactor, base: Resource | None = None
) -> Resource:
    """The resource of a run: the environment (``OTEL_SERVICE_NAME``, …) has precedence.

    `base` is the application's own, or a configuration file's, which takes the environment's place.
    """
    attributes: Mapping[str, Any] = {semconv.RUN_ID: run, semconv.PROJECT: project}
    resource = Resource.create(attributes) if base is None else base.merge(Resource(attributes))
    service = str(resource.attributes.get("service.name", ""))
    if not service or service.startswith("unknown_service"):
        # Nobody has named the service: the SDK did.
        resource = resource.merge(Resource({"service.name": project}))
    if not resource.attributes.get(semconv.SERVICE_INSTANCE):
        instance = _instance_of(os.getpid())
        resource = resource.merge(Resource({semconv.SERVICE_INSTANCE: instance}))
    schema_url = resource.schema_url or semconv.SCHEMA_URL
    return Resource(redact.attributes(resource.attributes), schema_url)


@lru_cache(maxsize=1)
def _instance_of(pid: int) -> str:
    """The instance that this process is, as in the SDK's own resources; older ones have none."""
    return str(Resource.create({}).attributes.get(semconv.SERVICE_INSTANCE) or uuid4())

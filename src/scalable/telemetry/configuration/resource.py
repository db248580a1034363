"""The resource of a run: what its signals say of the program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, cast
from uuid import uuid4

from opentelemetry.sdk.resources import Resource

from scalable.code.containers import Container
from scalable.code.remotes import web_address
from scalable.telemetry import semconv
from scalable_runs.redact import Redactor
from scalable_runs.schema import CodeState


def make_resource(
    run: str,
    project: str,
    redact: Redactor,
    base: Resource | None = None,
    found: Mapping[str, Any] = MappingProxyType({}),
) -> Resource:
    """The resource of a run: the environment (``OTEL_SERVICE_NAME``, …) has precedence.

    `base` is the application's own, or a configuration file's, which takes the environment's place.
    `found` is what was found out about the program: its container.
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
    # A detector, or the user, knows better.
    return Resource(redact.attributes({**found, **resource.attributes}), schema_url)


def container_attributes(container: Container) -> dict[str, Any]:
    """Return a container by the names of OpenTelemetry's conventions."""
    found: Mapping[str, Any] = container
    return {
        name: found[field]
        for name, field in _CONTAINER.items()
        if _is_text(found.get(field)) or _are_texts(found.get(field))
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, cast("list[Any]", value)))


_CONTAINER: Final = {
    semconv.CONTAINER_ID: "id",
    semconv.CONTAINER_NAME: "name",
    semconv.CONTAINER_RUNTIME: "runtime",
    semconv.CONTAINER_IMAGE: "image_name",
    semconv.CONTAINER_TAGS: "image_tags",
    semconv.CONTAINER_DIGESTS: "image_digests",
    semconv.CONTAINER_IMAGE_ID: "image_id",
}


@lru_cache(maxsize=1)
def _instance_of(pid: int) -> str:
    """The instance that this process is, as in the SDK's own resources; older ones have none."""
    return str(Resource.create({}).attributes.get(semconv.SERVICE_INSTANCE) or uuid4())


def vcs_attributes(state: CodeState) -> dict[str, Any]:
    """Return a repository's commit, branch and URL by the names of OpenTelemetry's conventions."""
    if state.get("code_identifier_type") != "git":
        return {}
    found: dict[str, Any] = {}
    if (commit := state.get("code_identifier")) is not None:
        found[semconv.VCS_REVISION] = commit
    if branch := state.get("branch"):
        found[semconv.VCS_REF_NAME] = branch
        found[semconv.VCS_REF_TYPE] = "branch"
    address = web_address(state.get("code_identifier_url") or "")
    for name, value in (
        (semconv.VCS_URL, address.url),
        (semconv.VCS_REPOSITORY, address.name),
        (semconv.VCS_OWNER, address.owner),
        (semconv.VCS_PROVIDER, address.provider),
    ):
        if value:
            found[name] = value
    return found


def recorded_resource(
    run_id: str, project: str, redact: Redactor, document: Mapping[str, Any]
) -> Resource:
    """The resource of a recorded run, with what its run.json says of code and container.

    Where this process runs says nothing of the program.
    """
    return make_resource(run_id, project, redact, found=_recorded(document))


def _recorded(run: Mapping[str, Any]) -> dict[str, Any]:
    identities: Any = run.get("code_identities")
    found: dict[str, Any] = {}
    if isinstance(identities, list) and identities:
        found |= vcs_attributes(cast("list[CodeState]", identities)[0])
    environment: Any = run.get("environment") or {}
    container: Any = environment.get("container")
    if isinstance(container, Mapping):
        found |= container_attributes(cast("Container", container))
    return found

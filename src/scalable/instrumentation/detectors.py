"""OpenTelemetry's detectors of resources; imported off the event loop, as they are the SDK's."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from opentelemetry.sdk.resources import Resource

from scalable.instrumentation.relay_values import attributes_of


def detected() -> dict[str, Any]:
    """What the configured detectors find, and what the environment says, of this process.

    The SDK's name for a service that nobody has named is left out: the client's name holds.
    """
    found = attributes_of(Resource.create().attributes)
    if str(found.get("service.name", "")).startswith("unknown_service"):
        del found["service.name"]
    # Newer SDKs have a detector for it.
    found.setdefault("service.instance.id", str(uuid4()))
    return found

"""A resource detector of OpenTelemetry's SDK: what is known of a program's project."""

from __future__ import annotations

import os

from opentelemetry.sdk.resources import OTELResourceDetector, Resource, ResourceDetector

from scalable.common.options import project_name
from scalable.telemetry import semconv


class ProjectResourceDetector(ResourceDetector):
    """Names the service after the project, as runs do: ``scalable`` in
    ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS``, or in the detectors of a configuration file.

    The SDK calls it once for each provider that it configures. A name of the service in
    ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` stays what it is: older SDKs merge the
    resources of detectors, their own included, in any order.
    """

    def detect(self) -> Resource:
        """The project, as the name of the service too."""
        project = project_name(os.environ)
        given = OTELResourceDetector().detect().attributes.get("service.name")
        return Resource({"service.name": given or project, semconv.PROJECT: project})

"""A resource detector of OpenTelemetry's SDK: what is known of a program's project."""

from __future__ import annotations

import os

from opentelemetry.sdk.resources import Resource, ResourceDetector

from scalable.common.options import project_name
from scalable.telemetry import semconv


class ProjectResourceDetector(ResourceDetector):
    """Names the service after the project, as runs do: ``scalable`` in
    ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS``, or in the detectors of a configuration file.

    The SDK calls it once for each provider that it configures. Its own detectors have precedence:
    ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` stay what they are.
    """

    def detect(self) -> Resource:
        """The project, as the name of the service too."""
        project = project_name(os.environ)
        return Resource({"service.name": project, semconv.PROJECT: project})

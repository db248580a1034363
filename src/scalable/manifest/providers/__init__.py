"""Providers of workers, by name.

The providers of this package are listed here; others are found by the entry point
``scalable.providers``. A provider's module is imported when a manifest names it, and the library
that starts clusters only when one is started.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Final

from scalable.manifest.providers.base import Provider, ProviderError, WorkerGroup

__all__ = [
    "BUILT_IN",
    "GROUP",
    "Provider",
    "ProviderError",
    "WorkerGroup",
    "find_provider",
    "provider_names",
]

GROUP: Final = "scalable.providers"
_HERE: Final = "scalable.manifest.providers"

#: Name of a provider: module and class.
BUILT_IN: Final = {
    "local": f"{_HERE}.local:LocalProvider",
    "existing": f"{_HERE}.existing:ExistingProvider",
    "slurm": f"{_HERE}.slurm:SlurmProvider",
    "kubernetes": f"{_HERE}.kubernetes:KubernetesProvider",
    "aws": f"{_HERE}.cloud:AwsProvider",
    "gcp": f"{_HERE}.cloud:GcpProvider",
}


def provider_names() -> list[str]:
    """Names of all providers that are installed."""
    return [*BUILT_IN, *sorted(entry_points(group=GROUP).names - set(BUILT_IN))]


def find_provider(name: str) -> type[Provider] | None:
    """Return the provider of that name, or None; ProviderError if it cannot be loaded."""
    place = BUILT_IN.get(name)
    if place is not None:
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for point in entry_points(group=GROUP, name=name):
        try:
            found = point.load()
        except Exception as error:
            raise ProviderError(f"provider {name!r} cannot be loaded ({error!r})") from error
        if not isinstance(found, type) or not issubclass(found, Provider):
            raise ProviderError(
                f"provider {name!r} ({point.value}) is not a subclass of "
                "scalable.session.providers.Provider"
            )
        return found
    return None

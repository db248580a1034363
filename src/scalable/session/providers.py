"""The public name of what a provider of your own is a subclass of; see docs/manifest.md."""

from scalable.manifest.providers import Provider, ProviderError, WorkerGroup

__all__ = ["Provider", "ProviderError", "WorkerGroup"]

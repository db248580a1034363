"""A cluster that exists already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from scalable.manifest.model import CountOrNone, Section, Target, Text
from scalable.manifest.providers.base import Provider, ProviderError, WorkerGroup


class Tls(Section):
    """Files for a scheduler that uses TLS."""

    ca_file: Text
    cert: Text
    key: Text


class ExistingTarget(Target):
    """A scheduler that runs already."""

    private: ClassVar[frozenset[str]] = frozenset({"tls"})

    address: Text | None = Field(None, description="Of the scheduler, such as tcp://host:8786.")
    scheduler_file: Text | None = Field(None, description="File that the scheduler has written.")
    tls: Tls | None = None
    min_workers: CountOrNone = Field(1, description="Number of workers to wait for.")

    @model_validator(mode="after")
    def _one_way(self) -> ExistingTarget:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("needs either `address` or `scheduler_file`")
        if self.adaptive is not None or self.workers:
            raise ValueError(
                "the workers exist already: neither `adaptive` nor `workers` can be given"
            )
        return self


class ExistingProvider(Provider):
    """Connects to a scheduler; starts and ends nothing."""

    name: ClassVar[str] = "existing"
    options_type: ClassVar[type[Target]] = ExistingTarget

    def groups(self) -> list[WorkerGroup]:
        """Return nothing: the workers exist already."""
        return []

    def wanted_workers(self, groups: list[WorkerGroup]) -> int:
        """Return how many workers the session waits for."""
        return self.options.min_workers

    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> dict[str, Any]:
        """Return how a client connects."""
        options: ExistingTarget = self.options
        timeout = options.start_timeout or self.default_start_timeout
        arguments: dict[str, Any] = {"timeout": timeout}
        if options.scheduler_file is not None:
            path = Path(options.scheduler_file).expanduser()
            if not path.is_file():
                raise ProviderError(
                    f"scheduler_file {path} does not exist: is the scheduler running?"
                )
            arguments["scheduler_file"] = str(path)
        else:
            arguments["address"] = options.address
        if options.tls is not None:
            security = self._module("distributed").Security
            arguments["security"] = security(
                require_encryption=True,
                tls_ca_file=options.tls.ca_file,
                tls_client_cert=options.tls.cert,
                tls_client_key=options.tls.key,
            )
        return arguments

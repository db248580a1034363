"""Workers on this machine."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from scalable.manifest.model import Count, Target, Text, checked_memory
from scalable.manifest.providers.base import Provider, WorkerGroup, adapt, grow


def _limit(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("auto", "none"):
        return value.strip().lower()
    return checked_memory(value)


class LocalTarget(Target):
    """Workers on this machine."""

    threads_per_worker: Count = Field(1, description="Tasks that a worker runs at a time.")
    processes: bool = Field(True, description="Workers in processes of their own, or in threads.")
    containers: Literal["none"] = Field("none", description="Local workers run in no container.")
    memory_limit: Annotated[Text, BeforeValidator(_limit)] = Field(
        "auto",
        description="Of one worker; `auto`: the component's, or an equal share; `none`: no limit.",
    )
    dashboard_address: Text | None = Field(
        None, description="Where Dask's dashboard listens, such as :8787. Default: any free port."
    )


class LocalProvider(Provider):
    """A :class:`distributed.LocalCluster`."""

    name: ClassVar[str] = "local"
    extra: ClassVar[str] = "session"
    options_type: ClassVar[type[Target]] = LocalTarget

    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> Any:
        """Start a local cluster."""
        cluster_type = self._module("distributed").LocalCluster
        options: LocalTarget = self.options
        general: dict[str, Any] = {
            "processes": options.processes,
            "dashboard_address": options.dashboard_address or ":0",
            "asynchronous": asynchronous,
        }
        if len(groups) == 1 and options.adaptive is None:
            (group,) = groups
            return cluster_type(n_workers=group.workers, **general, **self._options_of(group))
        return cluster_type(n_workers=0, **general, **self._options_of(groups[0]))

    def populate(self, cluster: Any, groups: list[WorkerGroup]) -> None:
        """Start workers of several kinds, or as many as the work needs."""
        if self.options.adaptive is not None:
            adapt(cluster, self.options, groups)
        elif len(groups) > 1:
            grow(cluster, groups, self._spec_of)

    def _options_of(self, group: WorkerGroup) -> dict[str, Any]:
        options: dict[str, Any] = {
            "threads_per_worker": group.threads,
            "memory_limit": self._memory_limit(group),
            "resources": group.resources,
        }
        if self.options.processes and group.env:
            options["env"] = dict(group.env)
        return options

    def _spec_of(self, group: WorkerGroup) -> dict[str, Any]:
        options = self._options_of(group)
        options["nthreads"] = options.pop("threads_per_worker")
        return options

    def _memory_limit(self, group: WorkerGroup) -> str | int:
        limit = self.options.memory_limit
        if limit == "none":
            return 0
        return (group.memory or "auto") if limit == "auto" else limit

    def _default_workers(self) -> int:
        return self.options.max_workers or max(1, (os.cpu_count() or 1))

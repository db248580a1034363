"""Workers in a Kubernetes cluster, by the operator of dask-kubernetes."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field

from scalable.common.units import memory_bytes
from scalable.manifest.model import RemoteTarget, Target, Text
from scalable.manifest.providers.base import Provider, WorkerGroup, adapt


class KubernetesTarget(RemoteTarget):
    """Workers in a Kubernetes cluster whose Dask operator is installed."""

    namespace: Text | None = Field(None, description="Namespace. Default: the context's.")
    image: Text = Field(
        "ghcr.io/dask/dask:latest", description="Image of workers whose component names none."
    )
    context: Text | None = Field(None, description="Context of the kubeconfig.")
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        "ClusterIP", description="How the scheduler is reached."
    )


class KubernetesProvider(Provider):
    """A :class:`dask_kubernetes.operator.KubeCluster`, one worker group per component."""

    name: ClassVar[str] = "kubernetes"
    extra: ClassVar[str] = "kubernetes"
    options_type: ClassVar[type[Target]] = KubernetesTarget
    default_start_timeout: ClassVar[float] = 600.0
    one_by_one: ClassVar[bool] = True

    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> Any:
        """Start the scheduler and the first group of workers."""
        cluster_type = self._module("dask_kubernetes.operator").KubeCluster
        options: KubernetesTarget = self.options
        first = self._group_arguments(groups[0])
        return cluster_type(
            name=_name(self.project),
            namespace=options.namespace,
            context=options.context,
            scheduler_service_type=options.service_type,
            asynchronous=asynchronous,
            n_workers=0 if options.adaptive is not None else groups[0].workers,
            **{"image": options.image, **first},
        )

    def populate(self, cluster: Any, groups: list[WorkerGroup]) -> None:
        """Start the other groups."""
        for group in groups[1:]:
            cluster.add_worker_group(
                name=_name(f"{self.project}-{'-'.join(group.components)}"),
                n_workers=group.workers,
                **self._group_arguments(group),
            )
        adapt(cluster, self.options, groups)

    def _group_arguments(self, group: WorkerGroup) -> dict[str, Any]:
        needs = {"cpu": f"{group.cpus:g}"}
        if group.memory is not None:
            needs["memory"] = str(memory_bytes(group.memory))
        command = ["dask", "worker", "--nthreads", str(group.threads)]
        if group.resources:
            command += ["--resources", group.resources_text]
        images = {self.components[name].image for name in group.components} - {None}
        arguments: dict[str, Any] = {
            "resources": {"requests": needs, "limits": needs},
            "worker_command": command,
            "env": self._env(group),
        }
        if len(images) == 1:
            arguments["image"] = images.pop()
        return arguments


def _name(text: str) -> str:
    """Return a name of lower-case letters, digits and dashes (RFC 1123)."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "scalable"

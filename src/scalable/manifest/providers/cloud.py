"""Workers of a cloud, by dask-cloudprovider."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from scalable.common.units import memory_bytes
from scalable.manifest.model import RemoteTarget, Target, Text
from scalable.manifest.providers.base import Provider, ProviderError, WorkerGroup, adapt


class _CloudTarget(RemoteTarget):
    image: Text | None = Field(None, description="Image of scheduler and workers.")

    @model_validator(mode="after")
    def _one_kind(self) -> _CloudTarget:
        if len(self.workers) > 1:
            raise ValueError("`workers` can have one component only: all machines are alike")
        return self


class AwsTarget(_CloudTarget):
    """Workers in Amazon's cloud."""

    service: Literal["fargate", "ec2"] = Field("fargate", description="Containers, or machines.")
    instance_type: Text | None = Field(None, description="Type of machine, for ec2.")
    vpc: Text | None = None

    @model_validator(mode="after")
    def _machines(self) -> AwsTarget:
        if self.instance_type is not None and self.service != "ec2":
            raise ValueError("`instance_type` needs `service: ec2`")
        return self


class GcpTarget(_CloudTarget):
    """Workers in Google's cloud."""

    project_id: Text = Field(description="Project that is charged.")
    zone: Text = Field("us-central1-a", description="Zone of the machines.")
    machine_type: Text = Field("e2-standard-4", description="Type of machine.")


class _CloudProvider(Provider):
    default_start_timeout: ClassVar[float] = 900.0
    one_by_one: ClassVar[bool] = True

    def populate(self, cluster: Any, groups: list[WorkerGroup]) -> None:
        """Make the number of workers follow the work, if the target is adaptive."""
        adapt(cluster, self.options, groups)

    def _image(self, option: str) -> dict[str, str]:
        """Return the image, under the name of the cluster's option; empty if there is none."""
        images = {one.image for one in self.components.values()} - {None}
        image = self.options.image or (images.pop() if len(images) == 1 else None)
        return {option: image} if image else {}

    def _count(self, group: WorkerGroup) -> int:
        return 0 if self.options.adaptive is not None else group.workers


class AwsProvider(_CloudProvider):
    """A ``FargateCluster`` or ``EC2Cluster`` of dask-cloudprovider."""

    name: ClassVar[str] = "aws"
    extra: ClassVar[str] = "aws"
    options_type: ClassVar[type[Target]] = AwsTarget

    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> Any:
        """Start containers or machines."""
        module = self._module("dask_cloudprovider.aws")
        options: AwsTarget = self.options
        (group,) = groups
        general: dict[str, Any] = {
            "n_workers": self._count(group),
            "asynchronous": asynchronous,
            **({"vpc": options.vpc} if options.vpc else {}),
        }
        if options.service == "ec2":
            if options.instance_type is not None:
                general["instance_type"] = options.instance_type
            return module.EC2Cluster(
                region=options.region,
                env_vars=self._env(group),
                worker_options={"nthreads": group.threads, "resources": group.resources},
                **self._image("docker_image"),
                **general,
            )
        memory = memory_bytes(group.memory) if group.memory else 4 * 2**30
        return module.FargateCluster(
            region_name=options.region,
            worker_cpu=math.ceil(group.cpus * 1024),
            worker_mem=math.ceil(memory / 2**20),
            worker_nthreads=group.threads,
            worker_extra_args=["--resources", group.resources_text] if group.resources else [],
            environment=self._env(group),
            **self._image("image"),
            **general,
        )


class GcpProvider(_CloudProvider):
    """A ``GCPCluster`` of dask-cloudprovider."""

    name: ClassVar[str] = "gcp"
    extra: ClassVar[str] = "gcp"
    options_type: ClassVar[type[Target]] = GcpTarget

    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> Any:
        """Start machines."""
        module = self._module("dask_cloudprovider.gcp")
        options: GcpTarget = self.options
        if len(groups) != 1:
            raise ProviderError("gcp starts machines of one kind only")
        (group,) = groups
        return module.GCPCluster(
            projectid=options.project_id,
            zone=options.zone,
            machine_type=options.machine_type,
            n_workers=self._count(group),
            env_vars=self._env(group),
            worker_options={"nthreads": group.threads, "resources": group.resources},
            asynchronous=asynchronous,
            **self._image("docker_image"),
        )

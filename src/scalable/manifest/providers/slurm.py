"""Workers in Slurm jobs, by dask-jobqueue."""

from __future__ import annotations

import math
import shlex
import shutil
from typing import Any, ClassVar, Final

from pydantic import Field

from scalable.common.units import memory_bytes
from scalable.manifest.model import (
    Count,
    Memory,
    RemoteTarget,
    Target,
    Text,
    Texts,
    Walltime,
    clock,
)
from scalable.manifest.providers.base import Provider, ProviderError, WorkerGroup, adapt, grow


class SlurmTarget(RemoteTarget):
    """Workers in Slurm jobs."""

    queue: Text | None = Field(None, description="Partition.")
    account: Text | None = Field(None, description="Account that is charged.")
    walltime: Walltime | None = Field(None, description="Time limit of a job, such as 02:00:00.")
    interface: Text | None = Field(None, description="Network interface, such as ib0.")
    cores: Count | None = Field(None, description="Cores of a job. Default: the component's cpus.")
    memory: Memory | None = Field(None, description="Memory of a job. Default: the component's.")
    threads_per_worker: Count | None = Field(
        None, description="Tasks that a worker runs at a time. Default: its cores."
    )
    job_cpu: Count | None = Field(None, description="Cores asked of Slurm, where not `cores`.")
    job_extra_directives: Texts = Field(
        default_factory=list[str], description="Further options of sbatch, such as --exclusive."
    )
    job_script_prologue: Texts = Field(
        default_factory=list[str], description="Lines of shell before the worker starts."
    )
    job_directives_skip: Texts = Field(
        default_factory=list[str], description="Directives to leave out of the job's script."
    )
    local_directory: Text | None = Field(None, description="Where workers spill to.")
    log_directory: Text | None = Field(None, description="Where jobs write their output.")
    python: Text | None = Field(None, description="Interpreter of the workers.")
    shebang: Text | None = None


#: Options that dask-jobqueue has by the same name.
_PASSED_ON: Final = (
    *("queue", "account", "interface", "job_extra_directives", "job_directives_skip"),
    *("local_directory", "log_directory", "python", "shebang"),
)


class SlurmProvider(Provider):
    """A :class:`dask_jobqueue.SLURMCluster`, one worker per job."""

    name: ClassVar[str] = "slurm"
    extra: ClassVar[str] = "slurm"
    options_type: ClassVar[type[Target]] = SlurmTarget
    default_start_timeout: ClassVar[float] = 600.0
    one_by_one: ClassVar[bool] = True

    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> Any:
        """Start a scheduler here; its jobs are submitted by :meth:`populate`."""
        module = self._module("dask_jobqueue")
        command = module.SLURMCluster.job_cls.submit_command
        if shutil.which(command) is None:
            raise ProviderError(
                f"{command} is not on the PATH of this machine: provider 'slurm' submits jobs, "
                "which a login node of the cluster can do"
            )
        given = {name: getattr(self.options, name) for name in _PASSED_ON}
        return _watched(module.SLURMCluster)(
            n_workers=0,
            processes=1,
            asynchronous=asynchronous,
            scheduler_options={"dashboard_address": ":0"},
            **{name: value for name, value in given.items() if value is not None},
            **self._job(groups[0]),
        )

    def trouble(self, cluster: Any) -> str | None:
        """Return why Slurm refused a job."""
        return next(iter(cluster.refused), None)

    def populate(self, cluster: Any, groups: list[WorkerGroup]) -> None:
        """Submit a job for each worker, or as many as the work needs."""
        if self.options.adaptive is not None:
            adapt(cluster, self.options, groups)
        else:
            grow(cluster, groups, self._job)

    def _job(self, group: WorkerGroup) -> dict[str, Any]:
        options: SlurmTarget = self.options
        resources = ["--resources", f"'{group.resources_text}'"] if group.resources else []
        job: dict[str, Any] = {
            "cores": group.threads,
            "memory": f"{memory_bytes(options.memory or group.memory or '2GB')}B",
            "job_cpu": options.job_cpu or options.cores or math.ceil(group.cpus),
            "worker_extra_args": resources,
            "job_script_prologue": [
                *_time_limit(group.walltime),
                *(f"export {key}={shlex.quote(value)}" for key, value in self._env(group).items()),
                *options.job_script_prologue,
            ],
        }
        if group.walltime is not None:
            job["walltime"] = clock(group.walltime)
        return job

    def _default_threads(self, cpus: float) -> int:
        options: SlurmTarget = self.options
        return options.threads_per_worker or options.cores or max(1, math.floor(cpus))


def _watched(cluster_type: Any) -> Any:
    """Return a cluster type that keeps the reasons why Slurm refused jobs.

    Dask only logs the exception of a job that does not start, and continues without the worker.
    """
    refused: list[str] = []

    class Job(cluster_type.job_cls):
        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refused.append(" ".join(str(error).split()) or type(error).__name__)
                raise

    class Cluster(cluster_type):
        job_cls = Job

    Cluster.__name__ = cluster_type.__name__
    Cluster.refused = refused
    return Cluster


def _time_limit(walltime: int | None) -> list[str]:
    """Return lines of shell that set the job's time limit where Slurm does not (before 23.02).

    Slurm ends the job without notice; the time limit shows that it was the cause.
    """
    if walltime is None:
        return []
    return [
        'export SLURM_JOB_START_TIME="${SLURM_JOB_START_TIME:-$(date +%s)}"',
        'export SLURM_JOB_END_TIME="${SLURM_JOB_END_TIME:-'
        f'$((SLURM_JOB_START_TIME + {walltime}))}}"',
    ]

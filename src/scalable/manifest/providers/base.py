"""What a provider is: the abstract base that third parties implement as well."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scalable.manifest.errors import SessionError
from scalable.manifest.model import Adaptive, Component, Target


class ProviderError(SessionError):
    """A provider cannot start what was asked for."""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers of one kind.

    Attributes
    ----------
    components : tuple of str
        The components they serve.
    workers : int
        How many there are, or may become.
    threads : int
        Tasks that one of them runs at a time.
    cpus : float
        Cores of one.
    memory : str or None
        Memory of one, as the manifest says it; None: an equal share, or no limit.
    walltime : int or None
        Seconds after which it ends.
    env : mapping
        Environment variables.
    """

    components: tuple[str, ...]
    workers: int
    threads: int
    cpus: float
    memory: str | None = None
    walltime: int | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def resources(self) -> dict[str, float]:
        """Dask's resources of one worker: for each component as many as it runs at a time."""
        return {component: float(self.threads) for component in self.components}


class Provider(ABC):
    """Starts and ends the cluster of one session; called by the thread that starts the session.

    A third party's provider is a subclass under the entry point ``scalable.providers``. Its module
    should import what it needs to start clusters only in :meth:`start`: `validate` and `plan` work
    on machines that cannot start anything.

    Parameters
    ----------
    options : Target
        The target, validated against :attr:`options_type`.
    components : mapping
        The manifest's components.
    project : str
        Name of the project.
    """

    #: Name in manifests.
    name: ClassVar[str]
    #: Extra of this package that brings what :meth:`start` needs.
    extra: ClassVar[str] = "session"
    #: Model of the target's options.
    options_type: ClassVar[type[Target]] = Target
    #: Seconds to wait for the first workers unless the target says otherwise.
    default_start_timeout: ClassVar[float] = 60.0
    #: Workers come one by one (a queue): the session starts with the first.
    one_by_one: ClassVar[bool] = False
    #: Tags bind tasks to workers that offer the component as a resource.
    binds_tags: bool = True

    def __init__(self, options: Any, components: Mapping[str, Component], project: str) -> None:
        self.options = options
        self.components = components
        self.project = project

    def groups(self) -> list[WorkerGroup]:
        """What :meth:`start` starts; asks and starts nothing."""
        options: Target = self.options
        if options.workers:
            return [
                self._group((name,), count, self.components[name])
                for name, count in options.workers.items()
            ]
        return [self._group(tuple(self.components), self._default_workers(), self._largest())]

    @abstractmethod
    def start(self, groups: list[WorkerGroup], *, asynchronous: bool) -> Any:
        """Start a cluster.

        Parameters
        ----------
        groups : list of WorkerGroup
            What to start: :meth:`groups`, or what a plan made of it.
        asynchronous : bool
            The caller awaits the result on the running event loop.

        Returns
        -------
        Cluster or dict
            A Dask cluster object, or keyword arguments of a :class:`distributed.Client` for a
            cluster that is there already.

        Raises
        ------
        ProviderError
            What is needed is not installed, or the options do not fit.
        """

    def populate(self, cluster: Any, groups: list[WorkerGroup]) -> None:
        """Ask the cluster that :meth:`start` returned for workers it does not have yet.

        Called once the cluster is up, on the event loop where that is the caller's.
        """
        return

    def trouble(self, cluster: Any) -> str | None:
        """Say why workers that were asked for will not come; None where nothing is known.

        Asked for again and again while the session waits for its first workers.
        """
        return None

    def wanted_workers(self, groups: list[WorkerGroup]) -> int:
        """Workers without which the session does not start."""
        adaptive: Adaptive | None = self.options.adaptive
        if adaptive is not None:
            return adaptive.minimum
        return 1 if self.one_by_one else sum(group.workers for group in groups)

    def describe(self) -> dict[str, Any]:
        """Options for plan.json: what the target says, without what is private."""
        content = self.options.model_dump(mode="json", exclude_unset=True)
        for key in (*self.options.private, "overlay", "provider"):
            content.pop(key, None)
        return content

    def _default_workers(self) -> int:
        return self.options.max_workers or 1

    def _default_threads(self, cpus: float) -> int:
        threads = getattr(self.options, "threads_per_worker", None)
        return int(threads) if threads else max(1, math.floor(cpus))

    def _largest(self) -> Component:
        """What workers that serve every component must have."""
        from scalable.common.sizes import memory_bytes

        components = list(self.components.values())
        return Component(
            cpus=max((one.cpus for one in components if one.cpus), default=None),
            memory=max(
                (one.memory for one in components if one.memory), key=memory_bytes, default=None
            ),
            walltime=max((one.walltime for one in components if one.walltime), default=None),
            image=None,
            env={key: value for one in components for key, value in one.env.items()},
        )

    def _group(self, names: tuple[str, ...], count: int, component: Component) -> WorkerGroup:
        cpus = component.cpus or 1.0
        return WorkerGroup(
            names,
            count,
            self._default_threads(cpus),
            cpus,
            component.memory,
            getattr(self.options, "walltime", None) or component.walltime,
            component.env,
        )

    def _module(self, name: str) -> Any:
        """Import what starts clusters, or say which extra brings it."""
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ProviderError(
                f"provider {self.name!r} needs {name.partition('.')[0]}, which is not installed "
                f"({error}): pip install 'scalable-otel[{self.extra}]'"
            ) from error


def grow(cluster: Any, groups: list[WorkerGroup], options_of: Any) -> None:
    """Let a :class:`distributed.SpecCluster` have workers of several kinds, group by group.

    Parameters
    ----------
    cluster : SpecCluster
        A cluster without workers.
    groups : list of WorkerGroup
        What to start.
    options_of : callable
        Options of the worker class for a group, put over those the cluster has.
    """
    template = cluster.new_spec
    total = 0
    for group in groups:
        options = {**template["options"], **options_of(group)}
        cluster.new_spec = {**template, "options": options}
        total += group.workers
        cluster.scale(total)


def adapt(cluster: Any, options: Target, groups: list[WorkerGroup]) -> None:
    """Let workers come and go with the work, if the target says so."""
    adaptive = options.adaptive
    if adaptive is not None:
        most = adaptive.maximum or sum(group.workers for group in groups)
        cluster.adapt(minimum=adaptive.minimum, maximum=most)

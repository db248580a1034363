"""The base class of providers, which third parties subclass as well."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scalable.common.units import memory_bytes
from scalable.manifest.errors import SessionError
from scalable.manifest.model import Adaptive, Component, Target


class ProviderError(SessionError):
    """A provider cannot start the cluster."""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers of one kind.

    Attributes
    ----------
    components : tuple of str
        The components they serve.
    workers : int
        Their number; the largest one if the target is adaptive.
    threads : int
        Tasks that one worker runs at a time.
    cpus : float
        Cores of one worker.
    memory : str or None
        Memory of one worker, such as ``4G``; None: an equal share, or no limit.
    walltime : int or None
        Seconds after which a worker ends.
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
        """Dask's resources of one worker: each component, as often as it has threads."""
        return {component: float(self.threads) for component in self.components}

    @property
    def resources_text(self) -> str:
        """The resources as ``dask worker --resources`` takes them."""
        return ",".join(f"{name}={value:g}" for name, value in self.resources.items())


class Provider(ABC):
    """Starts the cluster of one session; called by the thread that starts the session.

    A third party's provider is a subclass under the entry point ``scalable.providers``. It should
    import the library that starts clusters only in :meth:`start`: `validate` and `plan` also run on
    machines that cannot start anything.

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
    #: Extra of this package that installs what :meth:`start` needs.
    extra: ClassVar[str] = "session"
    #: Model of the target's options.
    options_type: ClassVar[type[Target]] = Target
    #: Seconds to wait for the first workers unless the target sets `start_timeout`.
    default_start_timeout: ClassVar[float] = 60.0
    #: Workers start one by one, as from a queue: the session starts with the first.
    one_by_one: ClassVar[bool] = False
    #: Workers offer their components as Dask resources, and tags bind tasks to them.
    binds_tags: bool = True

    def __init__(self, options: Any, components: Mapping[str, Component], project: str) -> None:
        self.options = options
        self.components = components
        self.project = project

    def groups(self) -> list[WorkerGroup]:
        """Return what :meth:`start` starts; starts nothing."""
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
            What to start: :meth:`groups`, possibly changed by a plan.
        asynchronous : bool
            The caller awaits the result on the running event loop.

        Returns
        -------
        Cluster or dict
            A Dask cluster object, or keyword arguments of a :class:`distributed.Client` for a
            cluster that exists already.

        Raises
        ------
        ProviderError
            A package is missing, or the options do not fit.
        """

    def populate(self, cluster: Any, groups: list[WorkerGroup]) -> None:
        """Start the workers that :meth:`start` has not started.

        Called once the cluster runs; on the event loop if the session is asynchronous.
        """
        return

    def trouble(self, cluster: Any) -> str | None:
        """Return why workers will not start; None if nothing is known.

        Called repeatedly while the session waits for its first workers.
        """
        return None

    def wanted_workers(self, groups: list[WorkerGroup]) -> int:
        """Return how many workers the session waits for."""
        adaptive: Adaptive | None = self.options.adaptive
        if adaptive is not None:
            return adaptive.minimum
        return 1 if self.one_by_one else sum(group.workers for group in groups)

    def describe(self) -> dict[str, Any]:
        """Return the target's options for plan.json, without private ones."""
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
        """Return what workers need that serve every component."""
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

    def _env(self, group: WorkerGroup) -> dict[str, str]:
        """Return the environment of workers: the component's, then the target's."""
        return {**group.env, **self.options.env}

    def _module(self, name: str) -> Any:
        """Import a library, or raise an error that names the extra to install."""
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ProviderError(
                f"provider {self.name!r} needs {name.partition('.')[0]}, which is not installed "
                f"({error}): pip install 'scalable-otel[{self.extra}]'"
            ) from error


def grow(cluster: Any, groups: list[WorkerGroup], options_of: Any) -> None:
    """Start workers of several kinds in a :class:`distributed.SpecCluster` that has none.

    `options_of` returns the options of the worker class for a group; the cluster's own options are
    used for the rest.
    """
    template = cluster.new_spec
    total = 0
    for group in groups:
        options = {**template["options"], **options_of(group)}
        cluster.new_spec = {**template, "options": options}
        total += group.workers
        cluster.scale(total)


def adapt(cluster: Any, options: Target, groups: list[WorkerGroup]) -> None:
    """Make the number of workers follow the work, if the target is adaptive."""
    adaptive = options.adaptive
    if adaptive is not None:
        most = adaptive.maximum or sum(group.workers for group in groups)
        cluster.adapt(minimum=adaptive.minimum, maximum=most)

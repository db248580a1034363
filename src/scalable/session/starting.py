"""What the start of a session needs: its plan, its documents, and the wait for workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from scalable.cache import store as cache
from scalable.catalog.places import VARIABLE as CATALOG_VARIABLE
from scalable.catalog.places import absolute
from scalable.common.catalog_places import DEFAULT
from scalable.manifest.errors import SessionError
from scalable.manifest.load import Manifest
from scalable.manifest.model import clock
from scalable.manifest.plan import Plan, apply_policy, make_plan
from scalable.manifest.providers.base import Provider, ProviderError, WorkerGroup

if TYPE_CHECKING:
    from scalable.documents import RunDocuments

#: Seconds between two questions to the provider while workers are waited for.
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a session."""

    provider: Provider
    plan: Plan
    #: Seconds to wait for the first workers.
    timeout: float
    asynchronous: bool
    #: Where the client and the workers keep cached results.
    cache_directory: Path
    #: Where the client and the workers have the data catalog; it may hold a password.
    catalog: str = field(repr=False)

    @property
    def groups(self) -> list[WorkerGroup]:
        """The workers to start."""
        return list(self.plan.groups)


def prepare(
    manifest: Manifest, plan: Plan | None, asynchronous: bool, catalog: str = DEFAULT
) -> Start:
    """Check or make the plan of a start; raises SessionError if it cannot be started."""
    if plan is not None and plan.dry_run:
        raise SessionError("a plan made with dry_run=True cannot be started")
    if plan is not None and plan.manifest_lock != manifest.lock:
        raise SessionError("the plan was made for another manifest")
    provider = manifest.make_provider()
    plan = plan or make_plan(manifest, provider)
    apply_policy(provider, plan)
    local = manifest.root.project.local_cache
    if local is None or cache.DIRECTORY_VARIABLE in os.environ:
        directory = cache.cache_directory().resolve()
    else:
        directory = Path(local).expanduser().resolve()
    catalog = absolute(catalog)
    variables = {cache.DIRECTORY_VARIABLE: str(directory), CATALOG_VARIABLE: catalog}
    groups = tuple(replace(group, env={**variables, **group.env}) for group in plan.groups)
    timeout = manifest.target.start_timeout or provider.default_start_timeout
    return Start(provider, replace(plan, groups=groups), timeout, asynchronous, directory, catalog)


def make_client(manifest: Manifest, start: Start, started: Any) -> Any:
    """Return a client for what the provider has started; to be awaited if it is asynchronous."""
    from scalable.session.client import ScalableClient
    from scalable.session.offer import planned_offer

    arguments: dict[str, Any] = started if isinstance(started, dict) else {"address": started}
    client = ScalableClient(asynchronous=start.asynchronous, **arguments)
    client.offer = planned_offer(manifest, start.plan, start.provider.binds_tags)
    return client


def documents(manifest: Manifest, plan: Plan) -> RunDocuments:
    """Return the documents of the run."""
    from scalable.documents import RunDocuments

    default: int | None = getattr(manifest.target, "walltime", None)

    def walltime(seconds: int | None) -> str | None:
        seconds = seconds or default
        return clock(seconds) if seconds is not None else None

    return RunDocuments(
        manifest.target_name,
        manifest.provider.name,
        manifest.copy,
        manifest.lock,
        str(manifest.path.resolve()) if manifest.path is not None else None,
        plan.document(),
        {
            name: {"cpus": one.cpus, "memory": one.memory, "walltime": walltime(one.walltime)}
            for name, one in manifest.root.components.items()
        },
        {**manifest.root.model_dump(), "target": manifest.target.model_dump()},
    )


class WorkerWait:
    """A wait for the first workers, interrupted to ask the provider whether they can come.

    Used by the thread or loop that starts a session.
    """

    def __init__(self, start: Start, cluster: Any) -> None:
        self.wanted = start.provider.wanted_workers(start.groups)
        self._start = start
        self._cluster = cluster
        self._deadline = monotonic() + start.timeout

    def next_timeout(self) -> float:
        """Return the seconds to wait; raises ProviderError if the workers will not come."""
        reason = self._start.provider.trouble(self._cluster)
        if reason is not None:
            raise ProviderError(reason)
        return min(_POLL_SECONDS, max(0.01, self._deadline - monotonic()))

    def timed_out(self, error: TimeoutError) -> None:
        """Raise a timeout that names the whole time, if it is over."""
        if monotonic() < self._deadline:
            return
        timeout = self._start.timeout
        came = getattr(error, "available_workers", None)
        if came is None:
            raise TimeoutError(f"the workers did not come within {timeout:g} s") from None
        # The same error, with the time of the whole wait.
        raise cast("Any", type(error))(came, cast("Any", error).expected_workers, timeout) from None

"""What the workers of a session offer to tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scalable.instrumentation import dask_compat
from scalable.manifest.load import Manifest
from scalable.manifest.plan import Plan
from scalable.session.declared import Declared


@dataclass(frozen=True, slots=True)
class Offer:
    """What the workers of a session offer.

    Attributes
    ----------
    components : mapping
        Component → how many of its tasks one worker runs at a time, at most.
    tags : mapping
        Further names → component.
    tasks : mapping
        Name of a function → what the manifest declares for it.
    bound : bool
        Workers have the components as Dask resources, and tasks are bound to them.
    manifest : pathlib.Path or None
        The manifest, for messages.
    """

    components: Mapping[str, int] = field(default_factory=dict[str, int])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    tasks: Mapping[str, Declared] = field(default_factory=dict[str, Declared])
    bound: bool = True
    manifest: Path | None = None

    def limited_to(self, components: Mapping[str, int]) -> Offer:
        """Return the offer with these components alone, and their tags."""
        tags = {tag: name for tag, name in self.tags.items() if name in components}
        return replace(self, components=components, tags=tags)


def planned_offer(manifest: Manifest, plan: Plan, bound: bool) -> Offer:
    """Return what the workers of a plan will offer; each component once if there is no group."""
    root = manifest.root
    capacity = dict.fromkeys(root.components, 0 if plan.groups else 1)
    for group in plan.groups:
        for name in group.components:
            capacity[name] = max(capacity[name], group.threads)
    offer = Offer(
        tags={tag: name for name, one in root.components.items() for tag in one.tags},
        tasks={
            name: Declared(task.component, task.cache, tuple(task.outputs))
            for name, task in root.tasks.items()
        },
        bound=bound,
        manifest=manifest.path,
    )
    return offer.limited_to({name: most for name, most in capacity.items() if most})


def existing_offer(client: Any, planned: Offer) -> Offer:
    """Return what the workers of an existing cluster offer of the planned components."""
    offered = {
        name: int(most)
        for name, most in worker_resources(client).items()
        if name in planned.components
    }
    # Without resources, tags are recorded and bind to no worker.
    return planned.limited_to(offered) if offered else replace(planned, bound=False)


def worker_resources(client: Any) -> dict[str, float]:
    """Return for each Dask resource the most that one worker offers."""
    offered: dict[str, float] = {}
    for worker in dask_compat.fetch_workers(client).values():
        for name, count in (worker.get("resources") or {}).items():
            offered[name] = max(offered.get(name, 0.0), float(count))
    return offered

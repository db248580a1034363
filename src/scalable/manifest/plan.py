"""What a session will start; making a plan starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from scalable.manifest.errors import SessionError
from scalable.manifest.load import Manifest
from scalable.manifest.model import Adaptive
from scalable.manifest.pricing import Estimate, estimate
from scalable.manifest.providers.base import Provider, WorkerGroup

Objective = Literal["speed", "cost"]
Policy = Literal["fixed", "adaptive"]
OBJECTIVES: Final = ("speed", "cost")
POLICIES: Final = ("fixed", "adaptive")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session starts, and what it may cost.

    Attributes
    ----------
    target, provider : str
        The target and its provider.
    manifest_lock : str
        Lock of the manifest it was made of.
    groups : tuple of WorkerGroup
        The workers; empty if they exist already.
    adaptive : bool
        The number of workers follows the work, up to those of `groups`.
    estimate : Estimate or None
        Cost; None where no price is known.
    dry_run : bool
        Only to be read: :meth:`ScalableSession.start` refuses it.
    options : dict
        Further options of the target.
    """

    project: str
    target: str
    provider: str
    manifest_lock: str
    groups: tuple[WorkerGroup, ...]
    adaptive: bool
    objective: Objective
    estimate: Estimate | None
    dry_run: bool = False
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def workers(self) -> int:
        """Workers of all groups."""
        return sum(group.workers for group in self.groups)

    def document(self) -> dict[str, Any]:
        """Return the content of plan.json."""
        return {
            "version": 1,
            "project": self.project,
            "target": self.target,
            "provider": self.provider,
            "manifest_lock": self.manifest_lock,
            "objective": self.objective,
            "adaptive": self.adaptive,
            "workers": [
                {
                    "components": list(group.components),
                    "workers": group.workers,
                    "nthreads": group.threads,
                    "cpus": group.cpus,
                    "memory": group.memory,
                    "walltime_s": group.walltime,
                    "resources": group.resources,
                    # Values may be secret.
                    "env": sorted(group.env),
                }
                for group in self.groups
            ],
            "options": dict(self.options),
            "cost": None if self.estimate is None else {**asdict(self.estimate), "estimate": True},
        }


def make_plan(
    manifest: Manifest,
    provider: Provider,
    *,
    dry_run: bool = False,
    objective: Objective | None = None,
    policy: Policy | None = None,
) -> Plan:
    """Plan what a session starts; see :meth:`scalable.ScalableSession.plan`."""
    if objective not in (None, *OBJECTIVES):
        raise SessionError(f"objective cannot be {objective!r}; allowed: {', '.join(OBJECTIVES)}")
    if policy not in (None, *POLICIES):
        raise SessionError(f"policy cannot be {policy!r}; allowed: {', '.join(POLICIES)}")
    groups = provider.groups()
    if objective == "cost":
        groups = [replace(group, workers=1) for group in groups]
    adaptive = manifest.target.adaptive is not None if policy is None else policy == "adaptive"
    return Plan(
        manifest.root.project.name,
        manifest.target_name,
        provider.name,
        manifest.lock,
        tuple(groups),
        adaptive,
        objective or "speed",
        estimate(provider.name, manifest.target, groups),
        dry_run,
        provider.describe(),
    )


def apply_policy(provider: Provider, plan: Plan) -> None:
    """Make the provider adaptive, or not, as the plan is."""
    if plan.adaptive != (provider.options.adaptive is not None):
        adaptive = Adaptive() if plan.adaptive else None  # pyright: ignore[reportCallIssue]
        provider.options = provider.options.model_copy(update={"adaptive": adaptive})

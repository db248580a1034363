"""`scalable plan`: what a session would start, and what it may cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import CommandError, deliver, deliver_json, json_option, write_file
from scalable.cli._manifest import manifest_options, session_errors
from scalable.cli._terminal import echo

if TYPE_CHECKING:
    from scalable.manifest.plan import Plan
    from scalable.manifest.providers import WorkerGroup

_EPILOG = """\b
Examples:
  scalable plan
  scalable plan other.yaml --target hpc --objective cost
  scalable plan --output plans   # plan.json and manifest.lock
"""


@click.command(epilog=_EPILOG)
@manifest_options
@click.option(
    "--objective",
    type=click.Choice(["speed", "cost"]),
    help="As many workers as the target allows (default), or the fewest that do.",
)
@click.option(
    "--policy",
    type=click.Choice(["fixed", "adaptive"]),
    help="Whether the number of workers follows the work. Default: as in the target.",
)
@json_option
@click.option("--dry-run", is_flag=True, help="Write nothing, even with --output.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write plan.json and manifest.lock into a directory.",
)
def plan(
    manifest: Path | None,
    target: str | None,
    objective: Any,
    policy: Any,
    as_json: bool,
    dry_run: bool,
    output: Path | None,
) -> None:
    """Show what a session would start, and estimate what it may cost.

    Nothing is started and no service is asked: the plan follows from the manifest alone.
    """
    from scalable.analysis import json_text

    with session_errors():
        from scalable.manifest.load import load_manifest
        from scalable.manifest.plan import make_plan

        loaded = load_manifest(manifest, target=target)
        provider = loaded.make_provider()
        made = make_plan(loaded, provider, dry_run=True, objective=objective, policy=policy)
    if as_json:
        deliver_json(made.document())
    else:
        deliver(plan_text(made))
    if output is None or dry_run:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror}. Name another directory by --output."
        ) from None
    write_file(output / "plan.json", json_text(made.document()), what="directory")
    write_file(output / "manifest.lock", f"{loaded.lock}\n", what="directory")
    echo(f"Wrote {output / 'plan.json'} and {output / 'manifest.lock'}", err=True)


def plan_text(made: Plan) -> str:
    """Return a plan as text."""
    lines = [
        f"project  {made.project}",
        f"target   {made.target} ({made.provider})",
        f"lock     {made.manifest_lock}",
    ]
    if not made.groups:
        return "\n".join([*lines, "workers  those that exist already", ""])
    lines += [f"workers  {_group_text(group, made.adaptive)}" for group in made.groups]
    if made.workers == 1 and not {"max_workers", "workers"} & set(made.options):
        lines.append("         one worker, as the target has neither max_workers nor workers")
    cost = made.estimate
    if cost is None:
        lines.append("cost     no price is known; the target's `prices` can set one")
    elif not cost.total_hourly:
        lines.append(f"cost     none: {cost.basis}")
    else:
        when = f", {cost.as_of}" if cost.as_of else ""
        lines.append(
            f"cost     about {cost.total_hourly:,.2f} {cost.currency} an hour "
            f"(an estimate: {cost.basis}{when})"
        )
    return "\n".join([*lines, ""])


def _group_text(group: WorkerGroup, adaptive: bool) -> str:
    """One kind of workers: ``2 workers × 1 thread, 1 CPU, 1 GB; component worker``."""
    from scalable.common.units import memory_bytes

    has = [_plural(group.threads, "thread"), _plural(group.cpus, "CPU")]
    if group.memory:
        has.append(f"{memory_bytes(group.memory) / 1e9:.3g} GB")
    if group.walltime:
        hours, rest = divmod(group.walltime, 3600)
        has.append(f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d} at most")
    several = "s" if len(group.components) > 1 else ""
    names = ", ".join(group.components)
    serves = f"component{several} {names}" if names else "any task"
    most = "up to " if adaptive else ""
    return f"{most}{_plural(group.workers, 'worker')} × {', '.join(has)}; {serves}"


def _plural(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'' if count == 1 else 's'}"

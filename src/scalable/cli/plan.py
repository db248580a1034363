"""`scalable plan`: what would be started, and what it may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scalable.cli._commands import CommandError, deliver, json_option
from scalable.cli._manifest import manifest_options, session_errors
from scalable.cli._terminal import echo

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
    help="Whether workers come and go with the work. Default: as the target says.",
)
@json_option
@click.option("--dry-run", is_flag=True, help="Write nothing, also where --output is given.")
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
    """Say what a session would start, and estimate what it may cost.

    Nothing is started and nobody is asked: the plan follows from the manifest alone.
    """
    from scalable.analysis import json_text

    with session_errors():
        from scalable.manifest.load import load_manifest
        from scalable.manifest.plan import make_plan

        loaded = load_manifest(manifest, target=target)
        provider = loaded.provider(loaded.target, loaded.root.components, loaded.root.project.name)
        made = make_plan(loaded, provider, dry_run=True, objective=objective, policy=policy)
    text = json_text(made.document())
    deliver(text if as_json else plan_text(made), as_json=as_json)
    if output is None or dry_run:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "plan.json").write_text(text, encoding="utf-8")
        (output / "manifest.lock").write_text(f"{loaded.lock}\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror}. Name another directory by --output."
        ) from None
    echo(f"Wrote {output / 'plan.json'} and {output / 'manifest.lock'}", err=True)


def plan_text(made: Any) -> str:
    """A plan for people."""
    lines = [
        f"project  {made.project}",
        f"target   {made.target} ({made.provider})",
        f"lock     {made.manifest_lock}",
    ]
    if not made.groups:
        lines.append("workers  those that are there already")
    for group in made.groups:
        lines.append(f"workers  {_group_text(group, made.adaptive)}")
    if made.groups and made.workers == 1 and not {"max_workers", "workers"} & set(made.options):
        lines.append("         one worker, as the target says neither max_workers nor workers")
    cost = made.estimate
    if not made.groups:
        pass
    elif cost is None:
        lines.append("cost     no price is known; the target's `prices` can say one")
    elif not cost.total_hourly:
        lines.append(f"cost     none: {cost.basis}")
    else:
        when = f", {cost.as_of}" if cost.as_of else ""
        lines.append(
            f"cost     about {cost.total_hourly:,.2f} {cost.currency} an hour "
            f"(an estimate: {cost.basis}{when})"
        )
    return "\n".join([*lines, ""])


def _group_text(group: Any, adaptive: bool) -> str:
    """One kind of workers: ``2 workers × 1 thread, 1 CPU, 1 GB; component worker``."""
    from scalable.common.units import memory_bytes

    has = [_plural(group.threads, "thread"), _plural(group.cpus, "CPU")]
    if group.memory:
        has.append(f"{memory_bytes(group.memory) / 1e9:.3g} GB")
    if group.walltime:
        hours, rest = divmod(group.walltime, 3600)
        has.append(f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d} at most")
    names = ", ".join(group.components)
    serves = (
        "any task" if not names else f"component{'s' if len(group.components) > 1 else ''} {names}"
    )
    most = "up to " if adaptive else ""
    return f"{most}{_plural(group.workers, 'worker')} × {', '.join(has)}; {serves}"


def _plural(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'' if count == 1 else 's'}"

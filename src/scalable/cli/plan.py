"""`scalable plan`: what would be started, and what it may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scalable.cli._common import CommandError, echo
from scalable.cli._manifest import manifest_option, session_errors, target_option

_EPILOG = """\b
Examples:
  scalable plan
  scalable plan --target hpc --objective cost
  scalable plan --output plans   # plan.json and manifest.lock
"""


@click.command(epilog=_EPILOG)
@manifest_option
@target_option
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
@click.option("--json", "as_json", is_flag=True, help="plan.json on standard output.")
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
        from scalable.session.manifest import load_manifest
        from scalable.session.plan import make_plan

        loaded = load_manifest(manifest, target=target)
        provider = loaded.provider(loaded.target, loaded.root.components, loaded.root.project.name)
        made = make_plan(loaded, provider, dry_run=True, objective=objective, policy=policy)
    text = json_text(made.document())
    if as_json:
        echo(text, nl=False)
    else:
        echo(plan_text(made), nl=False)
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
        has = [f"{group.threads} thread{'' if group.threads == 1 else 's'}", f"{group.cpus:g} cpus"]
        if group.memory:
            has.append(group.memory)
        if group.walltime:
            hours, rest = divmod(group.walltime, 3600)
            has.append(f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}")
        most = "up to " if made.adaptive else ""
        serves = ", ".join(group.components) or "any task"
        lines.append(f"workers  {most}{group.workers} of {', '.join(has)}, for {serves}")
    cost = made.estimate
    if cost is None:
        lines.append("cost     no price is known; the target's `prices` can say one")
    elif made.groups:
        when = f", {cost.as_of}" if cost.as_of else ""
        lines.append(
            f"cost     about {cost.total_hourly:,.2f} {cost.currency} an hour "
            f"(an estimate: {cost.basis}{when})"
        )
    return "\n".join([*lines, ""])

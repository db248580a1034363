"""`scalable init`: write a commented manifest."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from scalable.cli._common import CommandError, ask, echo
from scalable.cli._manifest import session_errors

_PROVIDERS = ("local", "existing", "slurm", "kubernetes", "aws", "gcp")
_EPILOG = """\b
Examples:
  scalable init
  scalable init --project floods --provider local --provider slurm --memory 4G
  scalable init --yes --output jobs/scalable.yaml
"""


@click.command(epilog=_EPILOG)
@click.option("--project", metavar="NAME", help="Default: the name of the working directory.")
@click.option(
    "--provider",
    "providers",
    multiple=True,
    type=click.Choice(_PROVIDERS),
    metavar="NAME",
    help=f"Where it may run; may be repeated: {', '.join(_PROVIDERS)}. Default: local.",
)
@click.option("--component", metavar="NAME", help="What tasks ask for by tag=. Default: worker.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Most workers. Default: 2.")
@click.option("--cpus", type=float, metavar="N", help="Cores of a worker. Default: 1.")
@click.option("--memory", metavar="SIZE", help="Memory of a worker. Default: 1G.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("scalable.yaml"),
    show_default=True,
    metavar="FILE",
    help="Where to write it.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--yes", is_flag=True, help="Ask nothing: what is not given has its default.")
def init(
    project: str | None,
    providers: tuple[str, ...],
    component: str | None,
    workers: int | None,
    cpus: float | None,
    memory: str | None,
    output: Path,
    force: bool,
    yes: bool,
) -> None:
    """Write a commented manifest, from a few questions or from options.

    On a terminal, what is not given is asked for; Enter takes the default. A file that is there is
    left alone unless --force says otherwise.
    """
    if output.exists() and not force:
        raise CommandError(f"{output} exists. Replace it by --force, or name another by --output.")
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not yes

    def answer(question: str, given: str | None, default: str) -> str:
        if given is not None:
            return given
        return ask(question, default) if asks else default

    project = answer("Name of the project", project, Path.cwd().name or "project")
    if not providers:
        named = answer(f"Where it may run ({', '.join(_PROVIDERS)})", None, "local")
        providers = tuple(named.replace(",", " ").split())
        unknown = [name for name in providers if name not in _PROVIDERS]
        if unknown:
            raise click.UsageError(
                f"There is no provider {unknown[0]!r}. There are: {', '.join(_PROVIDERS)}."
            )
    component = answer("What kind of worker tasks ask for", component, "worker")
    count = answer("Most workers", None if workers is None else str(workers), "2")
    cores = answer("Cores of a worker", None if cpus is None else str(cpus), "1")
    memory = answer("Memory of a worker", memory, "1G")
    with session_errors():
        from scalable.session.errors import ManifestError
        from scalable.session.manifest import check_manifest
        from scalable.session.scaffold import manifest_text

        try:
            text = manifest_text(
                project,
                providers,
                component=component,
                workers=int(count),
                cpus=float(cores),
                memory=memory,
            )
        except ValueError as error:
            raise click.UsageError(f"That is no number: {error}") from None
        problems = check_manifest(text, str(output))
        if problems:
            raise ManifestError(problems)
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror}. Name another file by --output."
        ) from None
    echo(f"Wrote {output}. Next: scalable validate", err=True)

"""`scalable demo`: record a real workload, then show its answer and its report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from scalable.cli._commands import CommandError, sentence
from scalable.cli._places import RUNS_DIR
from scalable.cli._terminal import echo, layout, wants_color

_EPILOG: Final = """\b
What happens during the run and is in the report:
  load_weather    fails twice and is retried
  a worker        is killed with SIGKILL while it works; its tasks and the
                  results that it held are computed again
  check_carrier   fails for carriers whose records are incomplete
  rate_carrier    cannot run for those, because of the failed check
It takes less than a minute on two cores.
It needs more packages: pip install 'scalable-otel[demo]'
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--runs-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=RUNS_DIR,
    show_default=True,
    envvar="SCALABLE_RUNS_DIR",
    show_envvar=True,
    metavar="DIR",
    help="Where to record the run.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Number of worker processes.",
)
def demo(runs_dir: Path, workers: int) -> None:
    """Record a real workload and show its report.

    What makes a flight leave New York late, and does a plane carry its delay on to its next flight?
    A Dask cluster on this machine computes the answer from the 336,776 flights of 2013. Some tasks
    fail and a worker dies on the way; the answer is right all the same, and the report shows why.
    """
    from scalable.analysis import load_report, render_text

    started = time.monotonic()

    def progress(message: str) -> None:
        echo(f"[{time.monotonic() - started:5.1f} s] {message}", err=True)

    try:
        from scalable.demo.answer import answer_text
        from scalable.demo.run import NotRecordedError, data_directory, run

        data = data_directory()
    except ImportError as error:
        raise CommandError(
            f"The demo needs packages that are not installed ({error}).\n\n"
            "Install them: pip install 'scalable-otel[demo]'"
        ) from None
    try:
        outcome = run(data, runs_dir, workers=workers, progress=progress)
    except NotRecordedError as error:
        raise CommandError(sentence(error)) from None
    echo(answer_text(outcome))
    report = load_report(outcome.reader)
    echo(render_text(report, **layout(None)), nl=False, styled=wants_color())
    echo(f"\nThe run: {outcome.location}")
    if not outcome.as_pandas:
        raise CommandError("The cluster and plain pandas computed different answers.")

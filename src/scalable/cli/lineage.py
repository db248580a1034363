"""`scalable lineage`: where a result came from, and what it went into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli._catalogs import catalog_option, opened
from scalable.cli._commands import (
    CommandError,
    deliver,
    deliver_json,
    json_option,
    output_option,
    sentence,
)
from scalable.cli._places import Runs, check_readable, no_runs, runs_option, unreadable
from scalable.cli._runs import RunChoice, complete_runs
from scalable.cli._terminal import layout, progress_bar

if TYPE_CHECKING:
    from scalable_runs.reader import RunReader

_EPILOG = """\b
Examples:
  scalable lineage results/yield.csv        a file, or a name in the catalog
  scalable lineage results/yield.csv --json | jq .upstream.files
\b
THING is looked up in this order: a file or directory on this machine, by its
content; a digest or its beginning; a name in the data catalog; the name or
location of an artifact; a task's id; the name that tasks share.
"""


@click.command(epilog=_EPILOG)
@click.argument("thing")
@click.argument("run", required=False, shell_complete=complete_runs)
@runs_option
@catalog_option
@json_option
@output_option
def lineage(
    thing: str,
    run: str | None,
    runs_dir: Runs,
    place: str | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Tell where a file or a task came from, and what it went into.

    Files are followed by the SHA-256 of their content, also from one run to another, and tasks of
    a run by their dependencies. RUN is where tasks are looked for, and whose making of the file
    is followed; by default the latest.
    """
    from scalable.analysis import json_text
    from scalable.analysis.lineage import (
        NoSubjectError,
        find_subject,
        lineage_outline,
        read_touches,
        trace,
    )
    from scalable.analysis.text_renderer import outline_text

    chosen = None if run is None else RunChoice(runs_dir, run).open()
    readers = _readers(runs_dir, chosen)
    with progress_bar("Reading the runs") as progress:
        touches = read_touches(readers, progress)
    digests = _digests(thing, place)
    searched = readers if chosen is None else [chosen]
    try:
        subject = find_subject(thing, touches, searched, digests=digests)
        found = trace(subject, touches, run_id=None if chosen is None else chosen.run_id)
    except NoSubjectError as error:
        raise CommandError(sentence(error)) from None
    if as_json and output is None:
        deliver_json(found.document())
    elif as_json:
        deliver(json_text(found.document()), output, "the lineage", as_json=True)
    else:
        deliver(outline_text(lineage_outline(found), **layout(output)), output, "the lineage")


def _readers(runs_dir: Runs, chosen: RunReader | None) -> list[RunReader]:
    from scalable_runs.reader import find_runs

    check_readable(runs_dir)
    try:
        readers = find_runs(runs_dir)
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(runs_dir, error) from None
    if chosen is not None and all(reader.run_id != chosen.run_id for reader in readers):
        readers = [chosen, *readers]
    if not readers:
        raise CommandError(no_runs(runs_dir))
    return readers


def _digests(thing: str, place: str | None) -> tuple[str, ...]:
    """Return the digest of a file or a name in the catalog, and those of directories with it."""
    from scalable.catalog import Catalog, CatalogError
    from scalable.common.digests import is_digest, measure

    digest: str | None = None
    if os.path.exists(thing):  # noqa: PTH110 - it may be too long to be a path
        try:
            _, digest = measure(thing)
        except OSError as error:
            raise CommandError(f"{thing} cannot be read: {error.strerror or error}.") from None
    elif is_digest(thing):
        digest = thing
    try:
        here: Catalog | None = opened(place)
    except CommandError:
        if place is not None:
            raise
        return () if digest is None else (digest,)
    try:
        if digest is None:
            digest = here.entry(thing).digest
        return digest, *sorted(here.directories_with(digest))
    except CatalogError:
        return () if digest is None else (digest,)

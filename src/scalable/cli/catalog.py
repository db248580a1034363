"""`scalable catalog`: what is in the data catalog, whether it is unchanged, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._catalogs import catalog_option, complete_names, opened, told
from scalable.cli._commands import CommandError, HelpGroup, deliver, deliver_json, json_option
from scalable.cli._terminal import echo, layout, progress_bar

if TYPE_CHECKING:
    from scalable.catalog import CatalogEntry, Changed

_EPILOG = """\b
Examples:
  scalable catalog list
  scalable catalog list results/yield.csv      all its versions
  scalable catalog get results/yield.csv       a path to read it from
  scalable catalog get maps --output maps      a copy of all of maps/…
  scalable catalog verify --json
\b
verify exits with 1 if anything is not as it was put there.
"""


@click.group(cls=HelpGroup, epilog=_EPILOG)
def catalog() -> None:
    """List, check or read what `catalog.put()` and `outputs` keep."""


@catalog.command("list", epilog=_EPILOG, short_help="List names, or the versions of one.")
@click.argument("name", required=False, shell_complete=complete_names)
@catalog_option
@json_option
def list_(name: str | None, place: str | None, as_json: bool) -> None:
    """List the latest version of each name; with a NAME, all of its versions.

    NAME may be what several names begin with, such as maps for maps/a.tif.
    """
    from scalable.analysis.text_renderer import outline_text

    with told():
        here = opened(place)
        if name is None:
            entries = list(here.entries())
        else:
            entries = here.versions(name) or list(here.found(name))
    if as_json:
        rows = [entry.fields() for entry in entries]
        deliver_json({"catalog": here.location, "entries": rows})
    elif not entries:
        echo(f"{here.location} holds nothing.")
    else:
        page = layout(None)
        deliver(outline_text(_outline(here.location, entries), **page))


def _outline(location: str, entries: list[CatalogEntry]) -> Any:
    from scalable.analysis.sections import Column, Outline, Row, Section, Table
    from scalable.analysis.units import plural

    columns = (
        Column("Size", "bytes"),
        Column("Put at", drop=2),
        Column("Digest"),
        Column("By", drop=1),
        Column("Name"),
    )
    rows = tuple(
        Row(
            (
                entry.size_bytes,
                entry.created_at[:16].replace("T", " "),
                entry.digest[:19],
                entry.task_id or entry.run_id or "-",
                f"{entry.name}/" if entry.is_directory else entry.name,
            )
        )
        for entry in entries
    )
    names = len({entry.name for entry in entries})
    aside = f"{plural(names, 'name')}, {location}"
    return Outline("Data catalog", (Section((Table(columns, rows, widest=4),), "", aside),), aside)


@catalog.command(epilog=_EPILOG, short_help="Read everything again, and tell what was changed.")
@click.argument("names", nargs=-1, shell_complete=complete_names)
@catalog_option
@json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], place: str | None, as_json: bool) -> None:
    """Read contents again, all or those of NAMES, and tell those with another digest.

    Nothing that is remembered is believed. The exit code is 1 if anything was changed or is gone.
    """
    with told():
        here = opened(place)
        wanted = sorted({one.name for name in names for one in here.found(name)})
        found: list[Changed] = []
        with progress_bar("Reading the catalog", of_bytes=False) as progress:
            for name in wanted or [None]:
                found += here.verify(name, progress)
    if as_json:
        rows = [
            {"what": one.what, "names": list(one.names), "digest": one.expected, "found": one.found}
            for one in found
        ]
        deliver_json({"catalog": here.location, "changed": rows})
    else:
        for one in found:
            echo(f"{', '.join(one.names) or 'no name'} ({one.what})")
            echo(f"  put    {one.expected}\n  found  {one.found}")
        echo(f"{here.location}: {f'{len(found):,} changed' if found else 'nothing was changed'}.")
    if found:
        ctx.exit(1)


@catalog.command(epilog=_EPILOG, short_help="Print a path to read it from, or make a copy.")
@click.argument("name", shell_complete=complete_names)
@click.option("--digest", metavar="DIGEST", help="An earlier version, by the beginning of it.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Make a copy there, which may be changed.",
)
@catalog_option
@json_option
def get(
    name: str, digest: str | None, output: Path | None, place: str | None, as_json: bool
) -> None:
    """Check something in the catalog, and print a path from which it can be read.

    NAME may be a whole digest, or what several names begin with. Nothing is recorded.
    """
    with told():
        here = opened(place)
        entries = here.found(name, digest=digest)
        path = here.fetch(name, entries)
    if output is not None:
        path = _copied(path, output)
    if as_json:
        rows = [entry.fields() for entry in entries]
        deliver_json({"path": str(path), "catalog": here.location, "entries": rows})
    else:
        echo(str(path))


def _copied(path: Path, output: Path) -> Path:
    if output.exists() and (path.is_dir() or output.is_dir()):
        raise CommandError(f"{output} exists already: name another place by --output.")
    try:
        if path.is_dir():
            shutil.copytree(path, output, symlinks=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, output)
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror or error}. Name another place by "
            "--output."
        ) from None
    return output

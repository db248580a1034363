"""Which data catalog a command reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import CommandError, completed, sentence
from scalable.cli._places import nearest_manifest, text_of
from scalable.common.catalog_places import DEFAULT

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable.catalog import Catalog


def catalog_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--catalog`; the command gets a `place`."""
    return click.option(
        "--catalog",
        "place",
        envvar="SCALABLE_CATALOG",
        show_envvar=True,
        metavar="DIR|URL",
        help="Where the catalog is. Default: the manifest's catalog, else .scalable/catalog here "
        "or in the nearest directory above.",
    )(command)


@contextlib.contextmanager
def told() -> Generator[None]:
    """Tell errors of the catalog as those of the command."""
    from scalable.catalog import CatalogError

    try:
        yield
    except (CatalogError, OSError) as error:
        raise CommandError(sentence(error)) from None


def opened(place: str | None) -> Catalog:
    """Return the catalog of a command; raises CommandError if there is none."""
    from scalable.catalog import Catalog

    chosen = place or _in_manifest() or _nearest()
    found = Catalog(chosen)
    if "://" not in chosen and not Path(found.location).is_dir():
        raise CommandError(
            f"There is no catalog in {found.location}. `catalog.put()` makes it; name another by "
            "--catalog or SCALABLE_CATALOG."
        )
    return found


def complete_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names that begin with what the user has typed."""
    try:
        return completed(opened(ctx.params.get("place")).names(), incomplete)
    except Exception:
        return []


def _in_manifest() -> str | None:
    path = nearest_manifest()
    if path is None or "catalog" not in text_of(path):
        return None
    from scalable.cli._manifest import session_errors

    with session_errors():
        from scalable.manifest.load import load_manifest

        place = load_manifest(path).root.catalog
    if place is None or "://" in place:
        return place
    # Sessions take it from the working directory, which mostly is that of the manifest.
    given = Path(place).expanduser()
    here = path.parent / given
    return os.fspath(here if not given.exists() and here.exists() else given)


def _nearest() -> str:
    here = Path.cwd()
    found = (above / DEFAULT for above in (here, *here.parents))
    return os.fspath(next((path for path in found if path.is_dir()), here / DEFAULT))

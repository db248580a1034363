"""`scalable cache`: list or remove the results that @cacheable keeps."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import HelpGroup, ask, completed, deliver_json, json_option, size_text
from scalable.cli._filters import Age
from scalable.cli._manifest import session_errors
from scalable.cli._terminal import echo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable.cache.store import Store

_EPILOG = """\b
Examples:
  scalable cache info
  scalable cache clear --older-than 30d
  scalable cache clear --function convert --yes
"""


def _directory_option(command: Any) -> Any:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="SCALABLE_CACHE_DIR",
        show_envvar=True,
        metavar="DIR",
        help="Where results are kept. Default: the manifest's local_cache, else .scalable/cache.",
    )(command)


def _complete_functions(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    try:
        names = {entry.function for entry in _store(ctx.params.get("directory")).entries()}
    except click.ClickException:
        return []
    return completed(sorted(names), incomplete)


@click.group(cls=HelpGroup, epilog=_EPILOG)
def cache() -> None:
    """List or remove the results that @cacheable keeps across runs."""


@cache.command(epilog=_EPILOG, short_help="List what is kept, and how large it is.")
@_directory_option
@json_option
def info(directory: Path | None, as_json: bool) -> None:
    """List the functions whose results are kept, with the number and bytes of their results."""
    from scalable.analysis.terminal import terminal_line
    from scalable.analysis.units import plural

    store = _store(directory)
    sizes: dict[str, list[int]] = defaultdict(list)
    for entry in store.entries():
        sizes[entry.function].append(entry.size)
    total = sum(map(sum, sizes.values()))
    if as_json:
        deliver_json(
            {
                "directory": str(store.directory),
                "size_bytes": total,
                "limit_bytes": store.limit,
                "functions": [
                    {"function_name": name, "results": len(found), "size_bytes": sum(found)}
                    for name, found in sorted(sizes.items())
                ],
            }
        )
    elif not sizes:
        echo(f"{store.directory} holds nothing.")
    else:
        count = plural(sum(map(len, sizes.values())), "result")
        echo(
            f"{store.directory}: {count}, {size_text(total)} of at most {size_text(store.limit)}\n"
        )
        for name, found in sorted(sizes.items(), key=lambda item: -sum(item[1])):
            echo(f"{size_text(sum(found)):>10}  {len(found):>7,}  {terminal_line(name)}")


@cache.command(epilog=_EPILOG, short_help="Remove kept results.")
@_directory_option
@click.option(
    "--function",
    metavar="NAME",
    shell_complete=_complete_functions,
    help="Only results of this function.",
)
@click.option(
    "--older-than",
    type=Age(),
    metavar="AGE",
    help="Only results not used for this time: 12h, 30d.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(
    directory: Path | None, function: str | None, older_than: float | None, yes: bool
) -> None:
    """Remove kept results: all of them, those of a function, or those not used for a while."""
    from scalable.analysis.units import plural

    store = _store(directory)
    if not yes:
        matching = store.matching(function, older_than)
        if not matching:
            echo(f"{store.directory} holds nothing to remove.", err=True)
            return
        size = size_text(sum(entry.size for entry in matching))
        ask(f"Remove {plural(len(matching), 'result')}, {size}, from {store.directory}?")
    count, freed = store.clear(function, older_than)
    echo(f"Removed {plural(count, 'result')}, {size_text(freed)}.")


def _store(directory: Path | None) -> Store:
    with session_errors():
        from scalable.cache.store import Store, cache_directory
        from scalable.manifest.errors import SessionError
        from scalable.manifest.load import find_manifest, load_manifest

        if directory is None:
            try:
                find_manifest()
            except SessionError:
                return Store(cache_directory())
            local = load_manifest().root.project.local_cache
            directory = Path(local) if local is not None else None
        return Store(cache_directory(directory))

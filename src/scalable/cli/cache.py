"""`scalable cache`: what @cacheable keeps, and how to be rid of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import CommandError, HelpGroup, deliver, json_option
from scalable.cli._manifest import session_errors
from scalable.cli._terminal import confirm, echo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_EPILOG = """\b
Examples:
  scalable cache info
  scalable cache clear --older-than 30d
  scalable cache clear --function convert --yes
"""
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


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
    from click.shell_completion import CompletionItem

    try:
        names = {entry.function for entry in _store(ctx.params.get("directory")).entries()}
    except click.ClickException:
        return []
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


@click.group(cls=HelpGroup, epilog=_EPILOG)
def cache() -> None:
    """Look at the results that @cacheable keeps across runs, or remove them."""


@cache.command(epilog=_EPILOG, short_help="Say what is kept, and how large it is.")
@_directory_option
@json_option
def info(directory: Path | None, as_json: bool) -> None:
    """Say how many results are kept, of which functions, and how many bytes they take."""
    from scalable.analysis import json_text
    from scalable.analysis.terminal import terminal_line

    store = _store(directory)
    functions: dict[str, tuple[int, int]] = {}
    for entry in store.entries():
        count, size = functions.get(entry.function, (0, 0))
        functions[entry.function] = (count + 1, size + entry.size)
    total = sum(size for _, size in functions.values())
    if as_json:
        rows = [
            {"function_name": name, "results": count, "size_bytes": size}
            for name, (count, size) in sorted(functions.items())
        ]
        found = {
            "directory": str(store.directory),
            "size_bytes": total,
            "limit_bytes": store.limit,
            "functions": rows,
        }
        deliver(json_text(found), as_json=True)
        return
    if not functions:
        echo(f"{store.directory} holds nothing.")
        return
    count = sum(count for count, _ in functions.values())
    echo(f"{store.directory}: {_results(count)}, {_size(total)} of at most {_size(store.limit)}\n")
    for name, (number, size) in sorted(functions.items(), key=lambda item: -item[1][1]):
        echo(f"{_size(size):>10}  {number:>7,}  {terminal_line(name)}")


@cache.command(epilog=_EPILOG, short_help="Remove kept results.")
@_directory_option
@click.option(
    "--function",
    metavar="NAME",
    shell_complete=_complete_functions,
    help="Only results of this function.",
)
@click.option("--older-than", metavar="AGE", help="Only those not used for so long: 12h, 30d.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(directory: Path | None, function: str | None, older_than: str | None, yes: bool) -> None:
    """Remove kept results: all of them, those of a function, or those not used for a while."""
    age = None
    if older_than is not None:
        match = _AGE.fullmatch(older_than.strip())
        if match is None:
            raise click.UsageError(f"--older-than cannot be {older_than!r}: write 12h or 30d.")
        age = float(match[1]) * _SECONDS[match[2]]
    store = _store(directory)
    if not yes and not _agreed(store, function, age):
        return
    count, freed = store.clear(function, age)
    echo(f"Removed {_results(count)}, {_size(freed)}.")


def _agreed(store: Any, function: str | None, age: float | None) -> bool:
    """Ask whether what would be removed may be removed; there may be nothing to ask."""
    matching = store.matching(function, age)
    if not matching:
        echo(f"{store.directory} holds nothing to remove.", err=True)
        return False
    what = f"{_results(len(matching))}, {_size(sum(entry.size for entry in matching))}"
    try:
        agreed = confirm(f"Remove {what}, from {store.directory}?")
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        raise CommandError("Nobody answers here: say --yes to remove without a question.") from None
    if not agreed:
        raise CommandError("Nothing was removed.")
    return True


def _store(directory: Path | None) -> Any:
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


def _results(count: int) -> str:
    return f"{count:,} result{'' if count == 1 else 's'}"


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"

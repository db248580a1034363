"""A file that says where runs are kept, which other tools may read for their own settings too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from scalable.common.run_stores import STORE_FILES, FromFile
from scalable.manifest import lock
from scalable.manifest.run_store import checked_store
from scalable.manifest.source import Source, read_source

#: Keys of a run store, which all mean the same.
KEYS: Final = ("run_store", "run-store", "run_log_store", "run-log-store")
#: Keys of other tools.
_FOREIGN: Final = frozenset(
    {"catalog", "secrets", "executor", "pipeline_executor", "job_executor", "experiment_tracker"}
    | {"pickler", "storage", "run_id", "parameters", "dag", "version", "tag", "variables"}
)


class ConfigurationError(ValueError):
    """The file cannot be used; the message has every problem, one in a line."""


class UnreadableError(ConfigurationError):
    """There is no such file, or it cannot be read."""


class File(NamedTuple):
    """A configuration file.

    Attributes
    ----------
    path
        Its path, as the variable gives it.
    variable
        The variable.
    is_ours
        Whether it is only for this package.
    """

    path: str
    variable: str
    is_ours: bool


def find_file(environ: Mapping[str, str]) -> File | None:
    """Return the configuration file that a variable names."""
    for variable in STORE_FILES:
        path = environ.get(variable, "").strip()
        if path:
            return File(path, variable, variable == STORE_FILES[0])
    return None


def read_file(file: File, environ: Mapping[str, str]) -> FromFile | None:
    """Return the run store in a configuration file; None if it says nothing of it.

    Raises
    ------
    ConfigurationError
        It cannot be read, a key is misspelt, or the run store cannot be used.
    """
    try:
        text = Path(file.path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UnreadableError(f"{file.variable}={file.path} cannot be read: {reason}") from None
    if not text.strip():
        return None
    source = read_source(text, file.path, environ)
    found = [key for key in source.data if key in KEYS]
    # What is wrong with another tool's part is for that tool to say.
    problems = [one for one in source.problems if not one.key or _is_below(one.key, found)]
    known = len(source.problems)
    for key in source.data:
        message = _wrong_key(str(key), file)
        if message is not None:
            source.problem((str(key),), message)
    for other in found[1:]:
        source.problem((other,), f"means the same as {found[0]}: give one of them")
    if found and not problems:
        _check(source, found[0])
    problems += source.problems[known:]
    if problems:
        raise ConfigurationError("\n".join(map(str, sorted(problems))))
    if not found or source.data[found[0]] is None:
        return None
    return FromFile(lock.plain(source.data[found[0]]), f"{file.path}: {found[0]}")


def _check(source: Source, key: str) -> None:
    if source.data[key] is not None:
        checked_store(
            lock.plain(source.data[key]),
            lambda below, message, at_value: source.problem(
                (key, *below), message, at_value=at_value
            ),
        )


def _is_below(key: str, sections: list[str]) -> bool:
    return key.partition(".")[0].partition("[")[0] in sections


def _wrong_key(key: str, file: File) -> str | None:
    """Return what is wrong with a key: it is like one of ours, or unknown in our own file."""
    from difflib import get_close_matches

    plain = key.replace("-", "_").lower()
    if key in KEYS or plain in _FOREIGN:
        return None
    near = get_close_matches(plain, ("run_store", "run_log_store"), n=1, cutoff=0.75)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    if file.is_ours:
        return f"unknown key; allowed: {', '.join(KEYS)}"
    return None

"""The catalog of causes, as ``catalog.toml`` has it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, TypeAlias

Confidence: TypeAlias = Literal["high", "medium", "low"]
#: A cause, and the confidence of a verdict that rests on one sign of it.
Sign: TypeAlias = tuple[str, Confidence]


class Cause(NamedTuple):
    """What a cause means and what helps; its signs are in the tables of this module."""

    name: str
    #: What happened, as a heading.
    title: str
    #: Which failures have this cause.
    meaning: str
    #: What usually helps.
    remedy: str


class Phrase(NamedTuple):
    """Words that a known library writes at the beginning of its message."""

    sign: Sign
    #: Who writes it.
    source: str
    #: To be matched at the beginning; ``^`` is implied.
    pattern: str


class Hint(NamedTuple):
    """Words that may indicate a cause; other failures may have them too."""

    cause: str
    #: To be searched for in the name of the exception's class.
    class_name: str
    #: To be searched for anywhere in the message, in any case.
    words: str


_ROWS: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    files("scalable.causes").joinpath("catalog.toml").read_text("utf-8")
)

#: Every cause that a verdict can have, by name.
CAUSES: Final[Mapping[str, Cause]] = {
    name: Cause(name, row["title"], row["meaning"], row["remedy"]) for name, row in _ROWS.items()
}


def _column(field: str) -> Iterator[tuple[Sign, Any]]:
    """Yield the values of a field that has one per confidence."""
    for name, row in _ROWS.items():
        for confidence, value in row.get(field, {}).items():
            yield (name, confidence), value


def _signs(field: str) -> Mapping[str, Sign]:
    """Return a column of names, by name."""
    return {name: sign for sign, names in _column(field) for name in names.split()}


def _http_phrase(codes: str, reasons: str) -> str:
    """Match an HTTP status as urllib, requests, httpx and aiohttp write it; never a bare number."""
    return (
        rf"(?:HTTP Error (?:{codes})\b|(?:{codes}) (?:Client|Server) Error: "
        rf"|(?:Client|Server) error '(?:{codes}) |(?:{codes}),? (?:message=)?['\"]?(?:{reasons}))"
    )


def _http_words(codes: str) -> str:
    """Match an HTTP status anywhere in a message; never a bare number."""
    return (
        rf"\b(?:status|code|error|HTTP(?:/[\d.]{1, 4})?)[ :=(]{{1,3}}(?:{codes})\b"
        rf"|\b(?:{codes}) (?:client|server) error\b"
    )


def _hint(cause: str, row: Mapping[str, Any]) -> Hint:
    words = [*row["words"], *([_http_words(row["http"])] if "http" in row else [])]
    return Hint(cause, row["class_name"], "|".join(words))


#: Causes that the end of a lost worker's output may indicate.
IN_OUTPUT: Final = frozenset(name for name, row in _ROWS.items() if row.get("in_output"))
ERRNOS: Final = _signs("errnos")
TYPES: Final = _signs("types")
GENERIC_TYPES: Final = _signs("generic_types")
PACKAGES: Final = _signs("packages")
PHRASES: Final = tuple(
    Phrase(sign, source, pattern[0] if source != "HTTP" else _http_phrase(*pattern))
    for sign, phrases in _column("phrases")
    for source, *pattern in phrases
)
HINTS: Final = tuple(_hint(name, row["hint"]) for name, row in _ROWS.items() if "hint" in row)

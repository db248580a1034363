"""Putting values into words and columns, safely: what a run recorded is somebody else's text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, Literal

#: Terminal escape sequences as wholes: CSI, OSC and the two-character ones.
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
#: What moves a cursor, hides or reorders text: controls, bidi and zero-width characters, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e01ef]"
)
_BLANKS: Final = re.compile(r"[\t\n\x0b\x0c\r\x85\u2028\u2029]+ *")


def printable(text: object) -> str:
    """Return text as one line that does nothing to a terminal but appear on it."""
    return _UNSAFE.sub("", _BLANKS.sub(" ", _ESCAPES.sub("", str(text)))).strip()


def printable_lines(text: str) -> list[str]:
    """Return the lines of a text, each safe to print, indentation kept."""
    lines = _ESCAPES.sub("", text).expandtabs(4).splitlines()
    return [_UNSAFE.sub("", line).rstrip() for line in lines]


def terminal_text(text: str, *, styled: bool = False) -> str:
    """Return a text of many lines without what a terminal acts on, newlines and tabs apart.

    Parameters
    ----------
    text
        What is to be printed.
    styled
        Keep the codes of colours and weights that :func:`scalable.analysis.render.paint` writes.
    """
    keep = _STYLE if styled else _NOTHING
    return "\n".join(
        "".join(
            part if place % 2 else _UNSAFE_IN_LINE.sub("", _ESCAPES.sub("", part))
            for place, part in enumerate(keep.split(line))
        )
        for line in text.split("\n")
    )


_STYLE: Final = re.compile(r"(\x1b\[(?:\d{1,2}(?:;\d{1,2})*)?m)")
_NOTHING: Final = re.compile(r"((?!))")
_UNSAFE_IN_LINE: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0a-\x1f"))


def escape_json(text: str) -> str:
    r"""Write the unsafe characters within JSON as ``\uXXXX``; the document stays the same."""
    return _UNSAFE_IN_JSON.sub(_escape, text)


# Newlines and blanks between tokens stay; within strings they are escaped already.
_UNSAFE_IN_JSON: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", ""))


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, *, keep: Literal["start", "ends"] = "start") -> str:
    """Cut a text to so many columns; an ellipsis says that something is missing."""
    if cells(text) <= width:
        return text
    if keep == "start":
        return f"{_take(text, width - 1)}…"
    # The end of a key tells tasks of one name apart.
    tail = _take(text[::-1], (width - 1) // 3)[::-1]
    return f"{_take(text, width - 1 - cells(tail))}…{tail}"


def _take(text: str, width: int) -> str:
    taken = 0
    for position, character in enumerate(text):
        taken += _cells(character)
        if taken > width:
            return text[:position]
    return text


def wrap(text: str, width: int, *, indent: str = "", first: str | None = None) -> list[str]:
    """Break a text into lines at blanks; a word that fits no line is broken."""
    lines: list[str] = []
    line = indent if first is None else first
    empty = True
    for word in text.split():
        while cells(line) + (not empty) + cells(word) > width:
            if not empty:
                lines.append(line)
                line, empty = indent, True
            else:
                part = _take(word, max(1, width - cells(line))) or word[:1]
                lines.append(line + part)
                word = word[len(part) :]
                line = indent
            if not word:
                break
        if word:
            line += word if empty else f" {word}"
            empty = False
    if not empty or not lines:
        lines.append(line)
    return lines


def place(text: str, width: int) -> str:
    """Shorten the directory of a ``file:line in function`` that is too wide, never the rest."""
    if cells(text) <= width:
        return text
    path, _, function = text.rpartition(" in ")
    directory, _, file = path.rpartition("/")
    rest = f"{file} in {function}"
    parts = directory.split("/")
    while parts := parts[1:]:
        short = f"…/{'/'.join(parts)}/{rest}"
        if cells(short) <= width:
            return short
    return rest if cells(rest) <= width else fit(rest, width, keep="ends")


def broken(text: str, width: int, *, first: str = "", indent: str = "") -> list[str]:
    """Break a line into as many as it takes, with every character and blank of it kept.

    Breaks come after a blank, a slash or a comma where there is one, so that the last part of a
    path with what follows it stays in one piece.
    """
    lines: list[str] = []
    start = first
    while True:
        room = max(8, width - cells(start))
        if cells(text) <= room:
            return [*lines, start + text]
        part = _take(text, room) or text[:1]
        cut = max(part.rfind(mark) for mark in " /\\,") + 1
        if cut > len(part) // 3:
            part = part[:cut]
        lines.append((start + part).rstrip())
        text = text[len(part) :]
        start = indent


def table(
    rows: Iterable[Sequence[str]],
    right: Sequence[bool],
    *,
    gap: str = "  ",
) -> list[str]:
    """Lay out rows in columns as wide as they must be."""
    body = [list(row) for row in rows]
    widths = [max((cells(row[column]) for row in body), default=0) for column in range(len(right))]
    return [
        gap.join(
            pad(text, width, right=at_right)
            for text, width, at_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in body
    ]


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text up to a width."""
    blanks = " " * max(0, width - cells(text))
    return blanks + text if right else text + blanks


def seconds(value: float | None) -> str:
    """Return a time span in at most seven characters, with the unit that suits it."""
    if value is None:
        return "-"
    if value <= 0:
        return "0 s"
    for unit, factor in (("µs", 1e6), ("ms", 1e3), ("s", 1.0)):
        amount = value * factor
        if amount < (59.95 if unit == "s" else 999.5):
            return f"{_three_digits(amount)} {unit}"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 100 * 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def _three_digits(amount: float) -> str:
    if amount < 9.995:
        return f"{amount:.2f}"
    return f"{amount:.1f}" if amount < 99.95 else f"{amount:.0f}"


def gigabytes(value: float | None) -> str:
    """Return an amount of memory given in 10^9 bytes."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1e3:.0f} MB"
    return f"{_three_digits(value)} GB"


def percent(ratio: float | None) -> str:
    """Return a share."""
    if ratio is None:
        return "-"
    return f"{ratio:.1%}" if 0 < ratio < 0.0995 else f"{ratio:.0%}"


def plural(count: int, singular: str, several: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"

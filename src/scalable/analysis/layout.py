"""Lays text out in columns of a terminal: wrapped, shortened, in tables, in colours."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scalable.analysis.frames import Frame
from scalable.analysis.terminal import terminal_line

#: Narrower than that nothing is readable.
MIN_WIDTH: Final = 60
#: A column that gives way keeps so much, before others are left out.
_MIN_STRETCH: Final = 20
_SGR: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


@dataclass(frozen=True, slots=True)
class Page:
    """What a text is laid out for.

    Attributes
    ----------
    width
        Columns to fill, at least :data:`MIN_WIDTH`.
    color
        Mark headings and states by terminal colours.
    elide
        Shorten what is too wide: directories of files, the middle of keys. Without it every text
        is whole, on more lines where it must be, as a file or a pipe wants it.
    strict
        No line may be wider than `width`, except the path of the run. Without it the place of a
        frame stays on one line, so that it can be searched for.
    """

    width: int = 80
    color: bool = False
    elide: bool = False
    strict: bool = True

    def paint(self, text: str, *styles: str) -> str:
        """Mark a text, where there are colours."""
        return paint(text, *styles) if self.color and text else text

    def frame(self, frame: Frame, program: str, indent: str) -> Iterator[str]:
        """Yield the lines of one frame of a traceback."""
        room = self.width - cells(indent)
        where = terminal_line(frame.where(program))
        if not self.strict:
            yield indent + where
        elif self.elide:
            yield indent + place(where, room)
        else:
            path, _, function = where.rpartition(" in ")
            if cells(where) <= room or cells(path) > room:
                yield from broken(where, self.width, first=indent, indent=indent + "  ")
            else:
                yield from (indent + path, f"{indent}  in {function}")
        if frame.code:
            yield from self.quoted(terminal_line(frame.code), indent + "    ")

    def quoted(self, text: str, indent: str) -> Iterator[str]:
        """Yield the lines of a recorded text, its blanks kept."""
        if self.elide:
            yield indent + fit(text, self.width - cells(indent))
        elif self.strict:
            yield from broken(text, self.width, first=indent, indent=indent + "  ")
        else:
            yield indent + text

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Sequence[bool],
        *,
        stretch: int,
        drop: Sequence[int] = (),
    ) -> list[list[str]]:
        """Lay out rows under a header; the lines of each, those of the header first.

        Parameters
        ----------
        header, rows, right
            What the columns hold, and which of them are set to the right.
        stretch
            The column that gives way if a row is too wide: its text is shortened, or is put on
            lines of its own.
        drop
            Columns to leave out if there is no room, in this order.
        """
        kept = list(range(len(header)))
        widths = [max(cells(row[at]) for row in [header, *rows]) for at in kept]

        def taken() -> int:
            return 2 + sum(widths[at] + 2 for at in kept if at != stretch)

        for column in drop:
            if taken() + min(widths[stretch], _MIN_STRETCH) > self.width:
                kept.remove(column)
        room = max(12, self.width - taken())
        fitted: list[list[str]] = [list(header)]
        # A text that is too wide goes below its row in the last column, else above it.
        apart: list[list[str]] = [[]]
        below = stretch == kept[-1]
        for row in rows:
            text = row[stretch]
            lines: list[str] = []
            if cells(text) > room and self.elide:
                text = fit(text, room, keep="ends")
            elif cells(text) > room:
                first = "      " if below else "  "
                lines = broken(text, self.width, first=first, indent=first + "  ")
                text = ""
            fitted.append([text if at == stretch else cell for at, cell in enumerate(row)])
            apart.append(lines)
        body = table(
            [[row[column] for column in kept] for row in fitted], [right[at] for at in kept]
        )
        laid_out = [
            ["  " + line, *lines] if below else [*lines, "  " + line]
            for lines, line in zip(apart, body, strict=True)
        ]
        # A last resort, where single cells are too wide.
        return [[fit(line, self.width) for line in lines] for lines in laid_out]


def paint(text: str, *styles: str) -> str:
    """Mark a text by terminal colours."""
    codes = ";".join(str(_SGR[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


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
    # Keys of one name differ at their ends.
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

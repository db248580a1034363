"""How a text is laid out: width, colours, tables, quoted lines, frames of tracebacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from scalable.analysis._text import broken, cells, fit, place, printable, table
from scalable.analysis.frames import Frame

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
        where = printable(frame.where(program))
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
            yield from self.quoted(printable(frame.code), indent + "    ")

    def quoted(self, text: str, indent: str) -> Iterator[str]:
        """Yield the lines of a text that is somebody else's, its blanks kept."""
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
            The column that gives way where a row is too wide: its text is shortened, or stands on
            lines of its own.
        drop
            Columns left out where there is no room for them, in this order.
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
        # In the last column a text that is too wide stands below its row, else above it.
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

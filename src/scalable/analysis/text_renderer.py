"""Renders as text, for a terminal, a pipe or a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import Final

from scalable.analysis import units
from scalable.analysis.diagnosis_sections import diagnosis_outline
from scalable.analysis.findings import Diagnosis
from scalable.analysis.layout import MIN_WIDTH, Page, cells, fit, paint, table, wrap
from scalable.analysis.overview import Overview
from scalable.analysis.report import Report
from scalable.analysis.report_sections import STATUS_TONES, report_outline
from scalable.analysis.sections import (
    Facts,
    Frames,
    Item,
    Kind,
    Message,
    Outline,
    Quote,
    Role,
    Section,
    Sentence,
    Table,
    Tone,
    Value,
)
from scalable.analysis.terminal import terminal_line, terminal_lines

_STYLES: Final[dict[Tone, tuple[str, ...]]] = {
    "good": ("green",),
    "active": ("cyan",),
    "warning": ("yellow",),
    "bad": ("red",),
    "critical": ("red", "bold"),
    "quiet": ("dim",),
}
#: Prefix of a sentence, and the indent of its further lines; None: two more than the first.
_PREFIXES: Final[dict[Role, tuple[str, str | None]]] = {
    "detail": ("", " " * 5),
    "advice": ("What to do: ", " " * 5),
    "consequence": ("→ ", " " * 5),
    "evidence": ("- ", " " * 5),
    "command": ("", None),
    "bullet": ("  - ", " " * 4),
    "aside": ("  ", "  "),
    "note": ("Note: ", " " * 6),
}
#: Characters of a message, on a terminal and elsewhere; lines of a lead on a terminal.
_MAX_ELIDED: Final = 300
_MAX_MESSAGE: Final = 800
_MAX_LEAD: Final = 6


def render_text(
    subject: Report | Diagnosis,
    width: int = 80,
    color: bool = False,
    *,
    elide: bool = False,
    strict: bool = True,
) -> str:
    """Return a report or a diagnosis as lines of at most `width` columns; see :class:`Page`."""
    is_report = isinstance(subject, Report)
    outline = report_outline(subject) if is_report else diagnosis_outline(subject)
    return outline_text(outline, width, color, elide=elide, strict=strict)


def outline_text(
    outline: Outline,
    width: int = 80,
    color: bool = False,
    *,
    elide: bool = False,
    strict: bool = True,
) -> str:
    """Return an outline as lines of at most `width` columns; see :class:`Page`."""
    page = Page(max(MIN_WIDTH, width), color, elide, strict)
    return "\n".join(_Text(page).lines(outline)) + "\n"


class _Text:
    """The text of one outline; every method yields lines."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._width = page.width

    def lines(self, outline: Outline) -> Iterator[str]:
        yield from self._heading(outline)
        for number, section in enumerate(outline.sections):
            if number:
                yield ""
            yield from self._section(section)

    def _heading(self, outline: Outline) -> Iterator[str]:
        title = terminal_line(outline.title)
        if outline.status:
            title = self._page.paint(fit(title, self._width - 40), "bold")
            status = self._page.paint(outline.status, *_STYLES.get(outline.tone, ()), "bold")
            yield f"{title}  {status}{outline.after}"
            return
        for line in self._page.quoted(title, ""):
            yield self._page.paint(line, "bold")

    def _section(self, section: Section) -> Iterator[str]:
        if section.title:
            yield from self._title(section.title, section.aside)
        indent = "  " if section.title else ""
        for number, block in enumerate(section.blocks):
            if number and isinstance(section.blocks[number - 1], Item):
                yield ""
            yield from self._block(block, indent)

    def _title(self, title: str, aside: str) -> Iterator[str]:
        if aside and cells(title) + cells(aside) + 3 > self._width:
            yield from wrap(f"{title} ({aside})", self._width)
        else:
            yield self._page.paint(title, "bold") + (f" ({aside})" if aside else "")

    def _block(self, block: object, indent: str) -> Iterator[str]:
        match block:
            case Sentence():
                yield from self._sentence(block, indent)
            case Message():
                yield from wrap(self._message(block), self._width, first=indent, indent=indent)
            case Quote():
                yield from self._quote(block, indent)
            case Frames():
                for frame in block.frames:
                    for line in self._page.frame(frame, block.program, indent):
                        yield self._toned(line, block.tone)
            case Facts():
                yield from self._facts(block, indent)
            case Table():
                yield from self._table(block)
            case Item():
                yield from self._item(block, indent)
            case _:
                raise TypeError(block)

    def _toned(self, text: str, tone: Tone) -> str:
        return self._page.paint(text, *_STYLES[tone]) if tone else text

    def _sentence(self, sentence: Sentence, indent: str) -> Iterator[str]:
        text, role, tone = sentence
        if role == "line":
            yield indent + terminal_line(text)
            return
        if role == "prose":
            for line in terminal_lines(text):
                yield from wrap(line, self._width) if line else [""]
            return
        prefix, further = _PREFIXES.get(role, ("", indent))
        if role in ("bullet", "aside"):
            indent = ""
        lines = wrap(
            terminal_line(text),
            self._width,
            first=indent + prefix,
            indent=f"{indent}  " if further is None else further,
        )
        if role == "lead" and self._page.elide and len(lines) > _MAX_LEAD:
            last = lines[_MAX_LEAD - 1]
            lines = [*lines[: _MAX_LEAD - 1], fit(f"{last}…", self._width)]
        for line in lines:
            yield self._toned(line, tone)

    def _message(self, message: Message) -> str:
        limit = _MAX_ELIDED if self._page.elide else _MAX_MESSAGE
        text = fit(terminal_line(message.text[: 2 * limit]), limit)
        return terminal_line(f"{message.before}{text}{message.after}")

    def _quote(self, quote: Quote, indent: str) -> Iterator[str]:
        for line in quote.lines:
            text = "".join(terminal_lines(line))
            yield from self._page.quoted(text, f"{indent}  | " if quote.is_output else indent)

    def _facts(self, block: Facts, indent: str) -> Iterator[str]:
        longest = max((len(fact.label) for fact in block.facts), default=0) + 2
        width = len(indent) + (max(10, longest) if len(block.facts) > 1 else longest)
        for label, text, is_whole in block.facts:
            first, text = f"{indent + label:<{width}}", terminal_line(text)
            if is_whole:
                yield first + text
            else:
                yield from wrap(text, self._width, first=first, indent=" " * width)

    def _item(self, item: Item, indent: str) -> Iterator[str]:
        below = indent + " " * cells(item.mark)
        title = item.title if isinstance(item.title, str) else self._message(item.title)
        label = f"{item.label}: " if item.label else ""
        first, *more = wrap(
            terminal_line(f"{label}{title}"), self._width, first=indent + item.mark, indent=below
        )
        if item.label:
            yield first.replace(item.label, self._toned(item.label, item.tone), 1)
        else:
            yield indent + self._toned(first[len(indent) :], item.tone)
        yield from more
        for block in item.blocks:
            yield from self._block(block, f"{below}  " if _is_deeper(item, block) else below)

    def _table(self, block: Table) -> Iterator[str]:
        columns = block.columns
        rows = [
            [_cell(value, column.kind) for value, column in zip(row.values, columns, strict=True)]
            for row in block.rows
        ]
        drop = sorted((column.drop, at) for at, column in enumerate(columns) if column.drop)
        header, *body = self._page.table(
            [column.title for column in columns],
            rows,
            [column.kind != "text" for column in columns],
            stretch=block.widest,
            drop=[at for _, at in drop],
        )
        for line in header:
            yield "  " + self._page.paint(line[2:], "dim")
        for row, lines in zip(block.rows, body, strict=True):
            yield from lines
            if row.note is not None:
                for line in wrap(terminal_line(row.note.text), self._width - 4):
                    yield "    " + self._toned(line, row.note.tone)


def _is_deeper(item: Item, block: object) -> bool:
    # Frames of a numbered finding stand apart from its sentences.
    return bool(item.label) and isinstance(block, Frames)


def _cell(value: Value, kind: Kind) -> str:
    return terminal_line(units.formatted(value, kind))


def render_overviews(
    overviews: Sequence[Overview], width: int = 80, color: bool = False, *, strict: bool = True
) -> str:
    """Return a table of runs, of at most `width` columns where that is `strict`.

    Ids that do not fit are cut to beginnings that are still unique.
    """
    ids = [terminal_line(overview.run_id) for overview in overviews]
    header = ["Run", "Project", "Status", "Started (UTC)", "Took", "Tasks", "Failed"]
    right = [False, False, False, False, True, True, True]
    rows = [
        [
            run_id,
            fit(terminal_line(run.project) or "-", _MAX_PROJECT if strict else 200),
            _status(run),
            "-" if run.started_at is None else f"{run.started_at:%Y-%m-%d %H:%M}",
            units.seconds(run.duration_s),
            _cell(run.tasks, "count"),
            _cell(run.failures, "count"),
        ]
        for run_id, run in zip(ids, overviews, strict=True)
    ]
    if strict and any(cells(line) > width for line in table([header, *rows], right)):
        for row, run_id in zip(rows, _beginnings(ids), strict=True):
            row[0] = run_id
        excess = max(map(cells, table([header, *rows], right))) - width
        if excess > 0:
            room = max(7, max(cells(row[1]) for row in rows) - excess)
            for row in rows:
                row[1] = fit(row[1], room)
    head, *body = table([header, *rows], right)
    lines = [paint(head, "dim") if color else head]
    for line, row in zip(body, rows, strict=True):
        status = row[2]
        styles = _STYLES[STATUS_TONES.get(status, "warning")]
        lines.append(line.replace(status, paint(status, *styles), 1) if color else line)
    return "\n".join(lines) + "\n"


def _status(run: Overview) -> str:
    if not run.readable:
        return "unreadable"
    return f"{run.status}, {run.writers_lost:,} lost" if run.writers_lost else run.status


_MAX_PROJECT: Final = 24
_ID_TO_SECOND: Final = len("run-20260102T030405")


def _beginnings(ids: Sequence[str]) -> list[str]:
    """Cut each id as short as it can be given to `--run-id`."""
    # Of all the others, the neighbours in the alphabet have most in common.
    ordered = sorted(set(ids))
    needed = dict.fromkeys(ordered, _ID_TO_SECOND)
    for before, after in pairwise(ordered):
        common = sum(1 for _ in takewhile(_are_equal, zip(before, after, strict=False))) + 1
        needed[before] = max(needed[before], common)
        needed[after] = max(needed[after], common)
    return [run_id[: needed[run_id]] for run_id in ids]


def _are_equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
